import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kappa_lib import paths
from kappa_lib.errors import CheckpointError, InputError, KappaError, SpaceError
from kappa_lib.evidence import report
from kappa_lib.evidence.runs import runs
from kappa_lib.files import alone, read_json, write_json
from kappa_lib.run import stages
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.training import evaluation, trainer
from kappa_lib.training.checkpoints import RunState, read_metrics
from kappa_lib.training.experiment import Experiment
from kappa_lib.training.trainer import record_spectral_change, run_config, train
from kappa_lib.weights import models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _short_windows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "WINDOW", tiny.WINDOW)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model") / "llama")


def start(model: Path, results: Path, arm: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "KAPPA_RESULTS": str(results),
        "PYTHONPATH": os.pathsep.join([str(paths.ROOT), str(paths.ROOT / "tests")]),
    }
    command = [sys.executable, str(paths.ROOT / "tests" / "tiny.py"), str(model), arm]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def train_here(model: Path, results: Path) -> None:
    """What :func:`start` starts, in this process, which has loaded already what it needs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAPPA_RESULTS", str(results))
        tiny.run(model)
    torch.set_num_threads(threads)


def run_folder(results: Path, arm: str = "selected") -> Path:
    return results / "tiny" / "runs" / f"{arm}-seed0"


def test_a_killed_run_resumes_bit_for_bit_and_another_arm_beside_it_is_not_disturbed(
    model, tmp_path
):
    """Two processes train two arms into one folder, as on two GPUs."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_here(model, whole)

    process, beside = (start(model, broken, arm) for arm in ("selected", "inverse"))
    for line in process.stdout:
        if line.strip() == "step 3":
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert tiny.comparable(run_folder(broken))[-1]["step"] == 2
    assert not (run_folder(broken) / "model.safetensors").exists()
    beside.communicate()
    assert beside.returncode == 0
    rows = tiny.comparable(run_folder(broken, "inverse"))
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert rows[0] == tiny.comparable(run_folder(broken))[0], "one warm start for both"

    train_here(model, broken)
    assert tiny.comparable(run_folder(broken)) == tiny.comparable(run_folder(whole))
    assert [row["step"] for row in tiny.comparable(run_folder(whole))] == [0, 2, 4, 6]
    trained = [load_file(run_folder(r) / "model.safetensors") for r in (whole, broken)]
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Both arms trained in this process."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAPPA_RESULTS", str(results))
        profile = tiny.profile(model)
        experiment, arms = stages.prepare(profile)
        original = {n: p.clone() for n, p in experiment.llm.named_parameters()}
        table = stages.train_all(experiment, arms)
    return results, (profile, experiment, arms, original, table)


@pytest.fixture
def finished(trained, monkeypatch):
    results, setting = trained
    monkeypatch.setenv("KAPPA_RESULTS", str(results))
    return setting


def test_a_run_is_the_one_of_the_first_release(finished):
    """``tests/golden``: metrics of the same run by the code of tag v0.1.0, on one thread."""
    profile, *_ = finished
    golden = (paths.ROOT / "tests" / "golden" / "tiny_training.jsonl").read_text().splitlines()
    found = tiny.comparable(trainer.run_folder(profile, "selected", 0))
    for row, before in zip(found, map(json.loads, golden), strict=True):
        # Another processor adds in another order; a changed rate or batch moves far more.
        for name, value in before.items():
            near = {"rel": 0.05, "abs": 1e-7} if name == "kl" else {"rel": 2e-6}
            assert row[name] == (value and pytest.approx(value, **near)), (row["step"], name)


def test_the_adaptor_alone_learns_and_forgets_nothing(finished, tmp_path, monkeypatch):
    profile, experiment, _, original, _ = finished
    shutil.copytree(profile.folder, tmp_path / "tiny")
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    alone = selection.select(kappa_table.read(profile.folder), "adaptor_only", 1)
    start, *_, end = train(experiment, alone, 0)
    assert end["kl"] == start["kl"] == 0
    assert end["text_loss"] == start["text_loss"]
    assert end["heldout_loss"] < start["heldout_loss"]
    now = dict(experiment.llm.named_parameters())
    assert all(torch.equal(now[n], original[n]) for n in original)


def test_a_shared_start_serves_every_seed(finished, monkeypatch):
    profile, experiment, arms, *_ = finished
    other = copy.copy(experiment)
    other.profile = profile.model_copy(update=dict(shared_start=True, seeds=[0, 3]))
    monkeypatch.setattr(other, "_train_adaptor", lambda *_: pytest.fail("made again"))
    assert other.warm_start(3) == experiment.warm_start(0)
    adaptors = [e.speech_llm(s).adaptor for e, s in ((other, 3), (experiment, 0))]
    first, second = (a.state_dict() for a in adaptors)
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [run_config(e, arms["selected"], 3) for e in (other, experiment)]
    assert configs[0] == {**configs[1], "shared_start": True}


def test_a_run_that_another_process_trains_is_refused_and_another_arm_is_not(finished):
    profile, experiment, arms, *_ = finished
    with alone(profile.folder, "selected-seed0"):
        with pytest.raises(InputError, match="selected-seed0"):
            train(experiment, arms["selected"], 0)
        assert train(experiment, arms["inverse"], 0)


def test_a_run_is_known_by_what_decides_it_and_by_nothing_that_came_later(finished, monkeypatch):
    profile, experiment, arms, *_ = finished
    recorded = read_json(trainer.run_folder(profile, "selected", 0) / "config.json")
    assert recorded == run_config(experiment, arms["selected"], 0)
    published = paths.REFERENCE / "laptop" / "runs" / "selected-seed0" / "config.json"
    assert set(recorded) == set(read_json(published)), "without a setting that has a default"
    other, changed = copy.copy(experiment), {"schedule": "constant"}
    other.profile = profile.model_copy(update=changed)
    assert run_config(other, arms["selected"], 0) == {**recorded, **changed}
    # A machine that picks another dtype makes another run.
    monkeypatch.setattr(models, "pick_dtype", lambda *_: "bfloat16")
    other = Experiment(profile.model_copy(update=dict(dtype="auto")), experiment.data)
    assert run_config(other, arms["selected"], 0) == {**recorded, "dtype": "bfloat16"}


def test_metrics_have_the_documented_fields_and_the_loss_falls(finished):
    profile, *_ = finished
    fields = {"step", "utterances", "seconds", "train_loss", "heldout_loss", "wer"}
    fields |= {"heldout", "text_loss", "kl", "text", "capped", "empty"}
    first, second, *_, last = read_metrics(trainer.run_folder(profile, "inverse", 0))
    assert set(first) == set(last) == fields
    assert set(last["wer"]) == {"de", "en"}
    assert last["train_loss"] < second["train_loss"]


def test_a_run_leaves_what_it_did_to_each_tensor(finished):
    profile, _, arms, *_ = finished
    stored = kappa_table.read(profile.folder).set_index("tensor")["kappa"]
    for name, arm in arms.items():
        table = pd.read_csv(trainer.run_folder(profile, name, 0) / "spectra.csv")
        assert table["tensor"].tolist() == arm.tensors
        assert table["layer"].isin([0, 1]).all()
        assert table["kappa_before"].tolist() == pytest.approx(stored[arm.tensors].tolist())
        ratio = (table["kappa_after"] / table["kappa_before"]).map(math.log)
        assert table["dlogkappa"].tolist() == pytest.approx(ratio.tolist())
        assert (table["relative_change"] > 0).all()
        assert (table.filter(like="angle") > 0).all(axis=None)


def test_a_tensor_that_did_not_move_has_changed_by_nothing(finished, tmp_path, monkeypatch):
    profile, experiment, arms, original, _ = finished
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    still, doubled = arms["selected"].tensors[:2]
    after = {f"llm.{still}": original[still], f"llm.{doubled}": 2 * original[doubled]}
    folder = trainer.run_folder(profile, "selected", 0)
    folder.mkdir(parents=True)
    save_file(after, folder / "model.safetensors")
    two = replace(arms["selected"], tensors=[still, doubled])
    record_spectral_change(experiment, two, 0)
    first, second = pd.read_csv(folder / "spectra.csv").to_dict("records")
    assert first["dlogkappa"] == first["relative_change"] == 0
    assert max(value for key, value in first.items() if key.startswith("angle")) < 1e-12
    assert second["relative_change"] == pytest.approx(1)
    assert second["dlogkappa"] == pytest.approx(0, abs=1e-9)


def test_a_profile_may_do_without_the_spectra(finished, tmp_path, monkeypatch):
    profile, experiment, arms, *_ = finished
    shutil.copytree(profile.folder, tmp_path / "tiny")
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    path = trainer.run_folder(profile, "selected", 0) / "spectra.csv"
    path.unlink()
    other = copy.copy(experiment)
    other.profile = profile.model_copy(update=dict(spectra=False))
    stages.train_all(other, arms)
    assert not path.exists()
    stages.train_all(experiment, arms)
    assert path.exists(), "measured of a finished run, which is not trained again"


def test_an_unknown_tensor_name_is_refused(finished):
    _, experiment, arms, *_ = finished
    wrong = replace(arms["selected"], tensors=["model.layers.0.no_such_tensor.weight"])
    with pytest.raises(InputError, match="no_such_tensor"):
        experiment.speech_llm(0, wrong)


def test_the_report_says_loudly_what_is_missing(finished):
    profile, *_ = finished
    path = profile.folder / "split.json"
    before = path.read_text()
    write_json(path, {**read_json(path), "missing": {"en_human": "no mirror answered"}})
    first = report.write(profile).read_text().splitlines()[:4]
    path.write_text(before)
    assert any("Without `en_human`" in line and "no mirror answered" in line for line in first)


def test_results_and_transcripts_come_back_without_training(finished):
    profile, *_, table = finished
    found = runs(profile)
    assert found.evaluations.round(9).equals(table.round(9))
    assert found.ends.loc["selected", "step"] == table["step"].max()
    assert {"corpus", "reference", "hypothesis"} <= {*found.transcripts("selected", 0).columns}
    with pytest.raises(InputError, match="no transcripts"):
        found.transcripts("selected", seed=9)


def test_a_loss_that_is_not_finite_stops_the_run(finished, tmp_path, monkeypatch):
    profile, experiment, arms, *_ = finished
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    poisoned = replace(experiment.data.tests[0], corpus="en")
    data = replace(experiment.data, features=[f * float("nan") for f in experiment.data.features])
    broken = Experiment(profile, replace(data, tests=[poisoned]))
    with pytest.raises(KappaError, match="loss became nan"):
        train(broken, arms["selected"], 0)


def checkpoint(folder: Path):
    parameter = torch.nn.Parameter(torch.ones(4))
    optimiser = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimiser.step()
    state = RunState(folder, "key")
    state.start()
    return state, {"w": parameter}, optimiser


def test_a_truncated_checkpoint_is_refused(tmp_path):
    state, named, optimiser = checkpoint(tmp_path)
    state.save(1, named, optimiser)
    content = state.resume_path.read_bytes()
    state.resume_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"resume\.safetensors"):
        state.resume(named, optimiser)


def test_a_checkpoint_of_another_configuration_is_not_used_and_starting_anew_leaves_nothing(
    tmp_path,
):
    state, named, optimiser = checkpoint(tmp_path / "run")
    state.save(1, named, optimiser)
    (state.folder / "provenance.json").write_text("{}")
    other = RunState(state.folder, "other")
    assert other.resume(named, optimiser) is None
    assert state.resume(named, optimiser) == 1
    other.start()
    assert {p.name for p in state.folder.iterdir()} == {"config.json", "metrics.jsonl"}
    assert read_json(state.folder / "config.json") == "other"


def test_what_was_measured_after_the_checkpoint_goes_on_resume(tmp_path):
    state, named, optimiser = checkpoint(tmp_path)
    for step in (0, 90, 100):
        state.record(step, 1, 0.0, None, {"metrics": {}, "transcripts": []})
    state.save(90, named, optimiser)
    state.resume(named, optimiser)
    assert [row["step"] for row in read_metrics(state.folder)] == [0, 90]
    kept = sorted(path.name for path in (tmp_path / "transcripts").iterdir())
    assert kept == ["step000000.json", "step000090.json"]


def test_a_checkpoint_is_not_blamed_for_want_of_memory(tmp_path, monkeypatch):
    """Who deletes it, as a damaged one asks for, loses the run."""

    def refused(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    state, named, optimiser = checkpoint(tmp_path)
    state.save(1, named, optimiser)
    monkeypatch.setattr("kappa_lib.training.checkpoints._restore", refused)
    with pytest.raises(torch.OutOfMemoryError):
        state.resume(named, optimiser)


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    state, named, optimiser = checkpoint(tmp_path)
    state.save(1, named, optimiser)
    before = state.resume_path.read_bytes()
    usage = type("Usage", (), {"free": 3})
    monkeypatch.setattr("kappa_lib.files.shutil.disk_usage", lambda _: usage)
    for write in (lambda: state.save(2, named, optimiser), lambda: state.finish(named, {})):
        with pytest.raises(SpaceError, match="KAPPA_RESULTS"):
            write()
    assert state.resume_path.read_bytes() == before
    assert not state.model_path.exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_what_the_system_refuses_while_tensors_are_written_is_explained(tmp_path, monkeypatch):
    """safetensors' error is no OSError."""

    def refused(*_):
        raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    state, named, _ = checkpoint(tmp_path)
    monkeypatch.setattr("kappa_lib.weights.safetensors_files.save_file", refused)
    with pytest.raises(KappaError, match=r"model\.safetensors: .*No space") as caught:
        state.finish(named, {})
    assert caught.value.remedy
