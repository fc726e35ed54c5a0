import json
import math
import shutil
from contextlib import redirect_stderr

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from kappa_lib.encoding.damage import Factors
from kappa_lib.encoding.information import Moments
from kappa_lib.encoding.study import Settings, Study
from kappa_lib.errors import InputError
from kappa_lib.spectra import kappa_table, scan, selection
from kappa_lib.spectra.spectrum import power_law_tail
from tools import tensors

SMALL = {"input_windows": 4, "input_length": 32, "blocks": 2, "length": 8}


def measure(folder, out):
    tensors.Table(Study(Settings(model=str(folder), **SMALL)), out).write()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with open(out / "progress", "w") as stream, redirect_stderr(stream):
        measure(folder, out)
    return out


def test_the_measurement_is_reported_to_its_end(finished):
    lines = (finished / "progress").read_bytes().decode().split("\n")
    ended = [line.rpartition("\r")[2] for line in lines]
    (told,) = [line for line in ended if line.startswith("information: ")]
    assert told.split("| ")[1].split()[0] == "2/2"


def test_the_table_has_every_tensor_of_the_layers(finished):
    table = pd.read_csv(finished / "tensors.csv")
    assert len(table) == 14
    assert table["effective_rank_share"].between(0, 1).all()
    assert table[["knn_entropy", "invariant_kappa"]].notna().all(axis=None)
    assert (table[["volume_loss", "deficit", "input_kappa", "gradient"]] > 0).all(axis=None)
    assert table.sort_values("kappa")["kappa_reversed"].is_monotonic_decreasing
    facts = json.loads((finished / "facts.json").read_text())
    assert facts["settings"]["blocks"] == 2
    assert set(facts["texts"]) == {"english", "german", "technical"}


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(folder, finished, tmp_path):
    shutil.copytree(finished / "rows", tmp_path / "rows")
    for path in sorted((tmp_path / "rows").iterdir())[::2]:
        path.unlink()
    measure(folder, tmp_path)
    kept = (finished / "tensors.csv").read_bytes()
    assert (tmp_path / "tensors.csv").read_bytes() == kept


def test_nothing_is_computed_twice(folder, finished, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("measured again")

    for name in ("input_moments", "gradients", "scan"):
        monkeypatch.setattr(tensors, name, refuse)
    before = (finished / "tensors.csv").read_bytes()
    measure(folder, finished)
    assert (finished / "tensors.csv").read_bytes() == before


def test_arms_are_chosen_by_what_lies_beside_the_table(folder, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    profile = tiny.profile(folder, arms=["lowest_input_kappa", "highest_input_kappa"])
    with pytest.raises(InputError, match=r"input_kappa(.|\n)*tools\.tensors --model MODEL --out"):
        selection.select_stage(profile, scan.scan_stage(profile))
    shutil.copytree(finished, (profile.folder / kappa_table.INPUTS).parent)
    arms = selection.select_stage(profile, scan.scan_stage(profile))
    measured = pd.read_csv(finished / "tensors.csv").set_index("tensor")["input_kappa"]
    low, high = (measured[arms[name].tensors] for name in profile.arms)
    assert low.max() < high.min()


def test_the_trace_log_gap_of_a_power_law_by_its_two_starts():
    # λ of a Pareto law from 1 on: the fitted tail starts near the bottom, and the sum of logs
    # vanishes where the scaled values' geometric mean is one.
    n, alpha = 400, 3.0
    eigenvalues = (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    scaled = s**2 / np.mean(s**2)
    brute = max(i for i in range(n) if math.fsum(np.log(scaled[: i + 1])) >= 0)
    found = tensors.trace_log_gap(s, power_law_tail(s)[1])
    scaled_start = power_law_tail(100 * s)[1]
    assert found == pytest.approx(tensors.trace_log_gap(100 * s, scaled_start))
    start = np.exp(found) * scaled[brute]
    assert np.abs(start / scaled - 1).min() < 1e-9
    assert found < 0


@pytest.mark.parametrize("kind", ["q_proj", "v_proj", "o_proj", "out_proj"])
def test_kappa_of_heads_is_that_of_their_rows_or_columns(kind):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    dim = 1 if kind.endswith(("o_proj", "out_proj")) else 0
    conds = [float(torch.linalg.cond(part)) for part in weight.split(4, dim=dim)]
    found = tensors.head_kappa(weight, kind, 4)
    assert found == pytest.approx(math.prod(conds) ** (1 / 3))
    whole = tensors.head_kappa(weight, "up_proj", 4)
    assert whole == pytest.approx(float(torch.linalg.cond(weight)))


def test_input_predictors_find_the_smallest_direction_in_the_input():
    # W's smallest direction is the third axis, where the input has nearly all its power.
    weight = torch.diag(torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64))
    inputs = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 10], [0, 0, -10]], dtype=torch.float64)
    moments = Moments(3)
    moments.add(inputs)
    found = tensors.input_predictors(Factors.of(weight), moments)
    assert found["bottom_power"] == pytest.approx(200)
    assert found["bottom_overlap"] == pytest.approx(1)
    assert found["dominant_share"] == pytest.approx(200 / 202)
