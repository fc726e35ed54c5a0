import json
from contextlib import redirect_stderr

import pandas as pd
import pytest
import tiny

from kappa_lib.encoding import damage, study
from kappa_lib.encoding.study import PARTS, Rows, Settings, Study
from kappa_lib.errors import InputError

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


def test_predictors_and_information_are_there_for_every_tensor(finished):
    found = pd.read_csv(finished / "tensors.csv")
    assert len(found) == 14
    columns = ["deficit", "input_kappa", "knn_entropy", "gradient"]
    assert found[columns].notna().all(axis=None)
    assert (found["deficit"] > 0).all()
    order = found.sort_values("kappa")["kappa_reversed"]
    assert order.is_monotonic_decreasing


def test_noise_and_gradient_are_there_for_every_tensor(finished):
    found = pd.read_csv(finished / "stability.csv")
    assert set(found["tensor"]) == set(pd.read_csv(finished / "tensors.csv")["tensor"])
    assert (found[["kl_se", "gradient", "noise"]] > 0).all(axis=None)
    assert found["noise_scale"].notna().all()


def test_surgery_on_all_is_measured_beside_each_type(finished):
    found = pd.read_csv(finished / "surgery.csv")
    assert set(found["scope"]) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "all",
    }
    assert len(found) == 8 * 3 * 6


def test_the_facts_name_model_texts_and_settings(finished):
    facts = json.loads((finished / "facts.json").read_text())
    assert facts["settings"]["blocks"] == 2
    assert set(facts["texts"]) == {"english", "german", "technical"}


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(folder, finished, tmp_path):
    settings = Settings(model=str(folder), **SMALL)
    rows = (finished / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(rows[: len(rows) // 2])
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


def test_windows_beyond_the_text_are_refused(folder, tmp_path):
    settings = Settings(model=str(folder), **{**SMALL, "input_windows": 1000})
    with pytest.raises(InputError, match="ask for fewer windows"):
        Study(settings, tmp_path).run(["tensors"])


def test_a_torn_line_is_dropped(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    rows.get("a", lambda: [{"x": 1}])
    with open(tmp_path / "rows.jsonl", "a", encoding="utf-8") as stream:
        stream.write('["b", [{"x"')
    again = Rows(tmp_path / "rows.jsonl")
    assert "a" in again
    assert "b" not in again
    assert again.get("b", lambda: [{"x": 2}]) == [{"x": 2}]
    assert "b" in Rows(tmp_path / "rows.jsonl")
