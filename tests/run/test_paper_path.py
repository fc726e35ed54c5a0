"""The paper's profile from Parquet to the table of results, on miniature files of its formats."""

import json
import math

import pytest
import tiny_paper
import torch
from safetensors.torch import load_file

from kappa_lib import profiles
from kappa_lib.files import read_json
from kappa_lib.run import cli, runner, stages
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


@pytest.fixture(autouse=True)
def _places(root, monkeypatch):
    tiny_paper.places(monkeypatch, root)


@pytest.fixture(scope="module")
def run(root):
    """The whole path once, for the tests below to look at."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_paper.places(patch, root)
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


def options(root, **changes) -> list[str]:
    """What makes a command's run of the profile one of its miniature."""
    values = {"model": str(root / "llama"), "encoder": str(root / "whisper")}
    values |= tiny_paper.SMALL | changes
    pairs = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return ["--profile", "paper", *(word for pair in pairs for word in ("--set", pair))]


@pytest.mark.slow
def test_the_command_finds_the_runs_finished_and_prints_their_ends(run, root, capsys):
    assert cli.main(["train", *options(root)]) == 0
    shown = capsys.readouterr().out
    assert "wer_librispeech" in shown
    ends = [line.split() for line in shown.splitlines()]
    assert [words[0] for words in ends if words[1:2] == ["0"]] == list(run[2])


@pytest.mark.slow(ahead=True)
def test_the_papers_profile_runs_through_its_notebooks(root, tmp_path, monkeypatch, capsys):
    """``bash reproduce.sh --profile paper`` on miniature files, its arms trained before.

    The notebooks of theory, of the default model's activations and of the symmetries are the same
    in every profile, or nearly so.
    """
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    alike = ("01", "02", "07", "08")
    sources = [path for path in runner.sources() if not path.name.startswith(alike)]
    monkeypatch.setattr(runner, "sources", lambda *_: sources)
    arms = ["selected", "inverse", "lowest_in_type", "highest_in_type"]
    given = options(root, arms=arms)
    assert cli.main(["train", *given]) == 0
    folder = tmp_path / "paper"
    records = [folder / "runs" / f"{arm}-seed0" / "provenance.json" for arm in arms]
    before = [read_json(path) for path in records]
    assert cli.main(["run", *given]) == 0, capsys.readouterr()
    executed = {path.name for path in (folder / "notebooks").glob("*.ipynb")}
    assert executed == {path.name for path in sources}
    assert [read_json(path) for path in records] == before, "the notebooks found the runs finished"
    text = (folder / "REPORT.md").read_text()
    assert "| WER librispeech, % | WER mls_german, % | mean, % |" in text
    assert "weights stored as bfloat16, computed in bfloat16" in text
    assert (folder / "figures" / "wer_over_training.png").is_file()


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
