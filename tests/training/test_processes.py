"""Several processes against one: the same training, and what happens when one dies.

torchrun starts them, to which `accelerate launch` hands over; with no GPU here they talk through
gloo.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import tiny_paper
import torch
import two_processes
from safetensors.torch import load_file

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.run import cli, runner
from kappa_lib.training import parallel
from kappa_lib.training.checkpoints import read_metrics
from kappa_lib.training.experiment import Experiment

pytestmark = pytest.mark.slow
# What is summed in another order differs by rounding: of fp32, and of the bf16 arithmetic. The
# second number is of an update as a whole; AdamW moves a weight by about lr whichever way
# rounding points a gradient that is nearly zero.
TOLERANCE = {"float32": (1e-5, 0.01), "bfloat16": (5e-3, 0.3)}

SELECTED = Path("paper", "runs", "selected-seed0")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_paper.write(tmp_path_factory.mktemp("paper"))


def places(root: Path, results: Path) -> dict[str, str]:
    return {
        "KAPPA_HOME": str(root / "cache"),
        "KAPPA_CORPORA": str(root / "corpora"),
        "KAPPA_RESULTS": str(results),
        "OMP_NUM_THREADS": "1",
    }


TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(root: Path, results: Path, *command: str) -> subprocess.Popen:
    """Two processes of a script or, after ``-m``, of a module."""
    on_cpu = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(paths.ROOT)}
    return subprocess.Popen(
        [*TWO, *command],
        cwd=paths.ROOT,
        env=os.environ | places(root, results) | on_cpu,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, problems = process.communicate(timeout=600)
    assert process.returncode == 0, problems


COMMAND = ("-m", "kappa_lib.run.cli")


def alone(root: Path, results: Path, arguments: list[str]) -> str:
    """The command in this process, which has loaded already what another would have to."""
    out = io.StringIO()
    with patch.dict(os.environ, places(root, results)), contextlib.redirect_stdout(out):
        assert cli.main(arguments) == 0
    return out.getvalue()


def train(root: Path, results: Path, **changes) -> Path:
    """Train the selected arm in this process; returns the run's folder."""
    out = alone(root, results, two_processes.training(root, **changes))
    assert out.count("selected 0") == 1
    return results / SELECTED


@pytest.fixture(scope="module")
def by_two(root, tmp_path_factory):
    """What two processes wrote and said, a folder for each piece of their work."""
    folder = tmp_path_factory.mktemp("two")
    finish(start(root, folder, two_processes.__file__, str(root), str(folder)))
    return folder


def said(folder: Path) -> str:
    """What the main process printed; the other one has to be silent."""
    assert (folder / "said-by-1.txt").read_text() == ""
    return (folder / "said-by-0.txt").read_text()


@pytest.fixture(scope="module")
def by_one(root, tmp_path_factory):
    """The run of one process, by type of the weights."""
    return {dtype: train(root, tmp_path_factory.mktemp(dtype), dtype=dtype) for dtype in TOLERANCE}


def beginning(root: Path, results: Path) -> dict[str, torch.Tensor]:
    """Every tensor as it was before the first step, by its name in ``model.safetensors``."""
    adaptor = load_file(results / "warm" / "seed0.safetensors")
    llm = dict(tiny_paper.llama().named_parameters())
    return {f"adaptor.{n}": t for n, t in adaptor.items()} | {
        f"llm.{n}": p.detach().float() for n, p in llm.items()
    }


def assert_same_run(root: Path, found: Path, expected: Path, dtype: str) -> None:
    of_loss, of_update = TOLERANCE[dtype]
    ours, theirs = read_metrics(found), read_metrics(expected)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["wer"].keys() == b["wer"].keys()
        for key in ("train_loss", "heldout_loss", "text_loss"):
            if b[key] is not None:
                assert a[key] == pytest.approx(b[key], rel=of_loss), (a["step"], key)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    start = beginning(root, expected.parents[1])
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        moved = (tensor - start[name]).norm()
        assert moved > 0
        assert (ours[name] - tensor).norm() <= of_update * moved, name
    assert not (found / "resume.safetensors").exists()
    # Equal by these numbers, and by nothing that depends on who computed what.
    assert read_json(found / "config.json") == read_json(expected / "config.json")
    transcripts = [read_json(f / "transcripts" / "step000004.json") for f in (found, expected)]
    assert [r["id"] for r in transcripts[0]] == [r["id"] for r in transcripts[1]]


def test_two_processes_train_what_one_does(root, by_one, by_two):
    results = by_two / "bfloat16"
    assert said(results).count("selected 0") == 1, "the table is printed once"
    assert_same_run(root, results / SELECTED, by_one["bfloat16"], "bfloat16")
    assert read_json(results / SELECTED / "provenance.json")["processes"] == 2


def test_the_gradient_of_a_batch_is_that_of_one_process(root, by_two, tmp_path):
    """Before clipping and before AdamW, both of which would hide its size."""
    with patch.dict(os.environ, places(root, tmp_path)):
        two_processes.write_gradients(root, tmp_path)
    expected = load_file(tmp_path / "gradients.safetensors")
    found = load_file(by_two / "gradients" / "gradients.safetensors")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_every_arm_of_every_seed_is_sharded(root, by_one, by_two, tmp_path):
    """What the first run takes apart the second finds whole, its seed's warm start included."""
    alone(root, tmp_path, two_processes.training(root, **two_processes.EVERY_ARM))
    results = by_two / "every-arm"
    for run in ("selected-seed0", "inverse-seed0", "selected-seed1", "inverse-seed1"):
        one, two = (folder / "paper" / "runs" / run for folder in (tmp_path, results))
        rows = [read_metrics(folder) for folder in (one, two)]
        assert len(rows[0]) == 3
        for key in ("heldout_loss", "text_loss"):
            assert rows[1][-1][key] == pytest.approx(rows[0][-1][key], rel=1e-5), run
    assert_same_run(root, results / SELECTED, by_one["float32"], "float32")


def worker(parent: subprocess.Popen, rank: int) -> psutil.Process:
    for child in psutil.Process(parent.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return child
    raise AssertionError(f"no process of rank {rank}")


def wait_for(path: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not path.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


LONGER = {"steps": 40, "eval_every": 10}


@pytest.fixture(scope="module")
def longer_by_one(root, tmp_path_factory):
    return read_metrics(train(root, tmp_path_factory.mktemp("longer"), **LONGER))


@pytest.mark.parametrize("then", [1, 2])
def test_a_killed_process_ends_the_job_and_any_number_goes_on(root, longer_by_one, tmp_path, then):
    command = two_processes.training(root, **LONGER)
    process = start(root, tmp_path, *COMMAND, *command)
    folder = tmp_path / SELECTED
    wait_for(folder / "resume.safetensors", process)
    worker(process, rank=1).send_signal(signal.SIGKILL)
    _, problems = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in problems
    assert not (folder / "model.safetensors").exists()

    if then == 1:
        alone(root, tmp_path, command)
    else:
        finish(start(root, tmp_path, *COMMAND, *command))
    found = read_metrics(folder)
    assert [row["step"] for row in found] == [0, 10, 20, 30, 40]
    # Without the optimiser's states, or with another order of utterances, it would be far off.
    for a, b in zip(found, longer_by_one, strict=True):
        assert a["heldout_loss"] == pytest.approx(b["heldout_loss"], rel=1e-3), a["step"]


@pytest.mark.slow(ahead=True)
def test_the_papers_profile_runs_through_its_notebooks(root, tmp_path, monkeypatch, capsys):
    """``bash reproduce.sh --profile paper`` on miniature files, trained by two processes before.

    The notebooks of theory and of the default model's activations are the same in every profile.
    """
    for name, value in places(root, tmp_path).items():
        monkeypatch.setenv(name, value)
    alike = ("01", "02", "07")
    sources = [path for path in runner.sources() if not path.name.startswith(alike)]
    monkeypatch.setattr(runner, "sources", lambda folder=None: sources)
    arms = ["selected", "inverse", "lowest_in_type", "highest_in_type"]
    _, *options = two_processes.training(root, dtype="bfloat16", arms=arms)
    finish(start(root, tmp_path, *COMMAND, "train", *options))
    assert cli.main(["run", *options]) == 0, capsys.readouterr()
    folder = tmp_path / "paper"
    executed = {path.name for path in (folder / "notebooks").glob("*.ipynb")}
    assert executed == {path.name for path in sources}
    for arm in arms:
        record = read_json(folder / "runs" / f"{arm}-seed0" / "provenance.json")
        assert record["processes"] == 2, "the notebooks found the runs finished"
    text = (folder / "REPORT.md").read_text()
    assert "| WER librispeech, % | WER mls_german, % | mean, % |" in text
    assert "weights stored as bfloat16, computed in bfloat16" in text
    assert (folder / "figures" / "wer_over_training.png").is_file()
    capsys.readouterr()
    assert cli.main(["run", *options]) == 0
    assert capsys.readouterr().out.count("unchanged, skipped") == len(executed)


def test_a_configuration_of_accelerates_does_not_change_a_run(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    found = parallel.accelerator(torch.device("cpu"))
    assert found.gradient_accumulation_steps == 1
    assert not found.is_fsdp2


def test_a_batch_has_to_have_an_utterance_for_each_process(root, monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 8)
    with pytest.raises(InputError, match="batch of 4 leaves some of 8 processes without work"):
        Experiment(tiny_paper.profile(root), data=None)
