import json
import shutil
from contextlib import redirect_stderr

import pandas as pd
import pytest
import tiny

from kappa_lib.encoding import damage, study
from kappa_lib.encoding.study import PARTS, Settings, Study

SMALL = {
    "input_windows": 4,
    "input_length": 32,
    "blocks": 2,
    "length": 8,
    "surgery_windows": 2,
    "surgery_length": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with open(out / "progress", "w") as stream, redirect_stderr(stream):
        Study(Settings(model=str(folder), **SMALL), out).run()
    return out


def tables(out):
    return {name: (out / f"{name}.csv").read_bytes() for name in PARTS}


def test_every_tensor_change_text_and_block_is_measured(finished):
    found = pd.read_csv(finished / "damage.csv")
    assert len(found) == 14 * len(damage.CHANGES) * 3 * 2
    assert not found.duplicated(["tensor", "change", "text", "block"]).any()
    assert found.notna().all(axis=None)
    redrawn = found[found["change"] == "redrawn"]
    assert (redrawn["kl"] > 0).all()


def test_every_stage_is_reported_to_its_end(finished):
    lines = (finished / "progress").read_bytes().decode().split("\n")
    ended = [line.rpartition("\r")[2] for line in lines]

    def counts(stage):
        return [line.split("| ")[1].split()[0] for line in ended if line.startswith(f"{stage}: ")]

    surgeries, changes = len(study.SURGERIES) * 8, 14 * len(study.DAMAGE_PARTS)
    assert counts("surgery") == [f"{surgeries}/{surgeries}"]
    for number in (0, 1):
        assert counts(f"damage, block {number}") == [f"{changes}/{changes}"]
    assert counts("noise on a tensor") == ["14/14"]
    assert counts("information") == ["2/2"]


def test_every_table_has_every_tensor_or_scope(finished):
    tensors, stability, surgery = (
        pd.read_csv(finished / f"{name}.csv") for name in ("tensors", "stability", "surgery")
    )
    assert len(tensors) == 14
    assert tensors[["deficit", "input_kappa", "knn_entropy", "gradient"]].notna().all(axis=None)
    assert (tensors["deficit"] > 0).all()
    assert tensors.sort_values("kappa")["kappa_reversed"].is_monotonic_decreasing
    assert set(stability["tensor"]) == set(tensors["tensor"])
    assert (stability[["kl_se", "gradient", "noise"]] > 0).all(axis=None)
    assert stability["noise_scale"].notna().all()
    assert set(surgery["scope"]) == {*tensors["type"], "all"}
    assert len(surgery) == 8 * 3 * 6
    facts = json.loads((finished / "facts.json").read_text())
    assert facts["settings"]["blocks"] == 2
    assert set(facts["texts"]) == {"english", "german", "technical"}


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(folder, finished, tmp_path):
    settings = Settings(model=str(folder), **SMALL)
    shutil.copytree(finished / "rows", tmp_path / "rows")
    for path in sorted((tmp_path / "rows").iterdir())[::2]:
        path.unlink()
    Study(settings, tmp_path).run()
    assert tables(tmp_path) == tables(finished)


def test_nothing_is_computed_twice(folder, finished, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("measured again")

    for name in ("Reference", "input_moments", "gradients"):
        monkeypatch.setattr(study, name, refuse)
    before = tables(finished)
    Study(Settings(model=str(folder), **SMALL), finished).run()
    assert tables(finished) == before
