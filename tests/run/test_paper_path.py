"""The paper's profile from Parquet to the table of results, on miniature files of its formats."""

import math

import pytest
import tiny_paper
import torch
from safetensors.torch import load_file

from kappa_lib import profiles
from kappa_lib.run import stages
from kappa_lib.speech.sources import HUB
from kappa_lib.training.checkpoints import read_metrics
from kappa_lib.training.model import INSTRUCTION, SpeechLLM, chat_prompt
from kappa_lib.training.trainer import train
from kappa_lib.training.warm_start import new_adaptor
from kappa_lib.weights import models

PAPERS = [name for name in profiles.names() if name.startswith("paper")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_paper.write(tmp_path_factory.mktemp("paper"))


def places(patch: pytest.MonkeyPatch, root) -> None:
    for name, folder in (("HOME", "cache"), ("RESULTS", "results"), ("CORPORA", "corpora")):
        patch.setenv(f"KAPPA_{name}", str(root / folder))


@pytest.fixture(autouse=True)
def _places(root, monkeypatch):
    places(monkeypatch, root)


@pytest.fixture(scope="module")
def run(root):
    """The whole path once, for the tests below to look at."""
    with pytest.MonkeyPatch.context() as patch:
        places(patch, root)
        profile = tiny_paper.profile(root)
        experiment, arms = stages.prepare(profile)
        table = stages.train_all(experiment, arms)
    return profile, experiment, arms, table


@pytest.mark.slow
def test_every_arm_is_trained_and_evaluated_on_both_corpora(run):
    profile, _, arms, table = run
    assert list(dict.fromkeys(table["arm"])) == profile.arms == list(arms)
    assert table["step"].tolist() == [0, 2, 4] * len(profile.arms)
    for corpus in HUB:
        assert table[f"wer_{corpus}"].between(0, 100).all()
    mean = (table["wer_librispeech"] + table["wer_mls_german"]) / 2
    assert table["wer_mean"].tolist() == mean.tolist()
    assert all(math.isfinite(value) for value in table["heldout_loss"])
    # Where all arms start is the same model, measured once.
    assert table[table["step"] == 0]["heldout_loss"].nunique() == 1
    assert (table[table["step"] == 0]["kl"].abs() < 1e-6).all()
    assert (table[table["step"] == 4]["kl"] > 0).all()


@pytest.mark.slow
def test_the_scan_reads_all_shards_as_stored(run, root):
    profile, *_ = run
    assert len(list((root / "llama").glob("*.safetensors"))) > 1
    found = stages.scan.scan_stage(profile)
    assert len(found) == 28
    assert set(found["dtype"]) == {"BF16"}
    assert len(found.attrs["shards"]) > 1


@pytest.mark.slow
def test_a_run_changes_its_own_tensors_and_no_others(run):
    profile, experiment, arms, _ = run
    original = dict(tiny_paper.llama().named_parameters())
    for arm, chosen in arms.items():
        kept = load_file(profile.folder / "runs" / f"{arm}-seed0" / "model.safetensors")
        trained = {name.removeprefix("llm."): t for name, t in kept.items() if "llm." in name}
        assert sorted(trained) == chosen.tensors
        # What trains is held in fp32, so that no update is rounded away.
        assert all(tensor.dtype == torch.float32 for tensor in trained.values())
        assert not any(torch.equal(tensor, original[name]) for name, tensor in trained.items())
    for name, parameter in experiment.reload().named_parameters():
        assert torch.equal(parameter, original[name]), name


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_metrics_bit_for_bit(run, root, monkeypatch):
    profile, experiment, arms, _ = run
    whole = read_metrics(profile.folder / "runs" / "selected-seed0")

    def stop_after_three(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setenv("KAPPA_RESULTS", str(root / "again"))
    with pytest.raises(KeyboardInterrupt):
        train(experiment, arms["selected"], 0, stop_after_three)
    steps = []
    again = train(experiment, arms["selected"], 0, steps.append)
    assert steps == [3, 4]
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in whole]


def test_llama_3_s_template_closes_turns_with_its_own_token_whatever_the_day(root):
    llm, words = models.load(str(root / "llama"), "bfloat16")
    adaptor = new_adaptor(32, llm.get_input_embeddings().weight, seed=0)
    model = SpeechLLM(llm, words, adaptor)
    assert words.convert_ids_to_tokens(model.end) == tiny_paper.TURN
    before, after = (words.decode(ids) for ids in chat_prompt(words))
    assert before.count(tiny_paper.BEGIN) == 1
    assert INSTRUCTION in before
    assert after.endswith("assistant" + tiny_paper.ENDED_HEADER + "\n\n")
    # A prompt that changes with the calendar would make two runs of the same thing differ.
    assert "26 Jul 2024" in before


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_profiles_differ_in_the_model_alone(name):
    profile, largest = profiles.load(name), profiles.load("paper")
    assert profile.encoder == "openai/whisper-large-v3"
    assert profile.dtype == "bfloat16"
    assert {"selected", "inverse"} < set(profile.arms)
    own = {"profile", "model", "lr"}
    settings, same = profile.model_dump(), largest.model_dump()
    assert {k: v for k, v in settings.items() if k not in own} == {
        k: v for k, v in same.items() if k not in own
    }
