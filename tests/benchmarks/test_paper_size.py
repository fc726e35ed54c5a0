"""The run at the paper's size, in miniature and on the CPU."""

import os

import pytest
import tiny_paper
import torch

from benchmarks import paper_size
from kappa_lib.files import read_json
from kappa_lib.weights import sizes


@pytest.fixture
def small(monkeypatch):
    """Sizes of a test, and the GPU's counters silent where there is none."""
    config = tiny_paper.llama(2).config.to_dict()
    whisper = tiny_paper.whisper(bands=128).config
    encoder = (whisper.d_model * 2, 2, 128, 64), 0
    monkeypatch.setattr(paper_size, "DEVICE", "cpu")
    monkeypatch.setattr(paper_size, "MEAN", 1.0)
    monkeypatch.setattr(paper_size, "LONGEST", 2.0)
    monkeypatch.setitem(sizes.CONFIGS, paper_size.LLAMA, config)
    monkeypatch.setitem(sizes.ENCODERS, "openai/whisper-large-v3", encoder)
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_scans_and_a_run_are_reported(tmp_path):
    settings = {"layers": 2, "steps": 4, "arm": "inverse", "optimiser": "adafactor"}
    paper_size.run(tmp_path, **settings, parts=["scan"])
    report = paper_size.run(tmp_path, **settings, parts=["train"])
    assert report == read_json(tmp_path / "paper_size.json")
    assert report["scan"]["extremes"]["matrices"] == 14
    run = report["train"]
    assert run["optimiser"] == "adafactor"
    assert run["steps"] == 4
    assert run["seconds_per_step"] > 0
    assert run["tflops"] > 0
    assert run["planned_gib"] > 0
    assert not (tmp_path / "results" / "paper").exists()
