"""From checkpoint to table: same numbers from every source, nothing lost by a kill or a fault."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from kappa_lib.errors import InputError
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.scan import ScanError, scan

MATRICES = 14


@pytest.fixture(scope="module")
def llama():
    return tiny.untied_llama(layers=2)


def test_row_equals_numpy(llama):
    table = scan(llama).set_index("tensor")
    assert len(table) == MATRICES
    row = table.loc["model.layers.1.self_attn.k_proj.weight"]
    weight = llama.model.layers[1].self_attn.k_proj.weight.detach().double().numpy()
    s = np.linalg.svd(weight, compute_uv=False)
    assert row["kappa"] == pytest.approx(s[0] / s[-1], rel=1e-10)
    assert row["sigma_max"] == pytest.approx(s[0], rel=1e-12)
    assert row["sigma_min"] == pytest.approx(s[-1], rel=1e-10)
    assert row["log_volume"] == pytest.approx(np.log(s).sum(), rel=1e-10)
    assert row["frobenius"] == pytest.approx(np.linalg.norm(weight), rel=1e-12)
    assert row["stable_rank"] == pytest.approx(np.sum((s / s[0]) ** 2), rel=1e-12)
    assert (row["type"], row["layer"], row["rows"], row["cols"]) == ("k_proj", 1, 16, 32)
    assert row["kappa_excess"] == pytest.approx(row["kappa"] / row["kappa_mp"])


def test_columns_and_ranks(llama):
    table = scan(llama)
    assert list(table.columns) == list(kappa_table.COLUMNS)
    expected = table["kappa"].rank().astype(int)
    pd.testing.assert_series_equal(table["rank"], expected, check_names=False)
    assert set(table["rank_in_type"]) == {1, 2}


def test_files_hold_the_table_and_its_metadata(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    table = scan(tmp_path / "model", tmp_path)
    again = kappa_table.read(tmp_path)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert again.attrs == table.attrs
    assert list(again.attrs["shards"]) == ["model.safetensors"]
    csv = pd.read_csv(tmp_path / "kappa.csv")
    np.testing.assert_allclose(csv["kappa"], table["kappa"], rtol=0)


def test_second_scan_computes_nothing(llama, tmp_path):
    names = []
    scan(llama, tmp_path, progress=lambda done, total, name: names.append(name))
    assert len(names) == MATRICES + 1
    names.clear()
    scan(llama, tmp_path, progress=lambda done, total, name: names.append(name))
    assert names == [""]


def test_what_changed_or_was_damaged_is_measured_again(tmp_path):
    model, rows = nn.Linear(8, 8, bias=False), tmp_path / "kappa.rows.jsonl"
    first = scan(model, tmp_path)["kappa"][0]
    assert scan(model, tmp_path, method="svd")["method"][0].startswith("svd")
    rows.write_text("nonsense\n" + rows.read_text().replace('"kappa": ', '"kappa": 1'))
    assert scan(model, tmp_path)["kappa"][0] == first
    with torch.no_grad():
        model.weight[0] *= 3
    assert scan(model, tmp_path)["kappa"][0] == scan(model)["kappa"][0] != first


def test_scales_in_a_file_of_their_own_are_part_of_what_was_measured(tmp_path):
    name, shards = "a.weight", ("model-1.safetensors", "model-2.safetensors")
    codes = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    save_file({name: codes}, tmp_path / shards[0])
    places = {name: shards[0], f"{name}_scale_inv": shards[1]}
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = []
    for scale in (torch.ones(8, 1), torch.arange(1.0, 9).reshape(8, 1)):
        save_file({f"{name}_scale_inv": scale}, tmp_path / shards[1])
        found.append(scan(tmp_path, tmp_path / "kappa"))
    assert set(found[0].attrs["shards"]) == {*shards}
    assert found[1]["kappa"][0] == scan(tmp_path)["kappa"][0] != found[0]["kappa"][0]


def test_what_the_configuration_says_of_the_packing_is_part_of_it_too(tmp_path):
    codes = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 9.0], [5.0, 2.0]])
    stored = {"a.weight": codes, "a.weight_scale_inv": scale}
    save_file(stored, tmp_path / "model.safetensors")
    found = []
    for side in (4, 6):
        packing = {"quantization_config": {"weight_block_size": [side, side]}}
        (tmp_path / "config.json").write_text(json.dumps(packing))
        found.append(scan(tmp_path, tmp_path / "kappa")["kappa"][0])
    assert found[1] == scan(tmp_path)["kappa"][0] != found[0]


@pytest.fixture
def folder(tmp_path):
    rng = torch.Generator().manual_seed(0)
    names = [f"layers.{i}.up_proj.weight" for i in range(6)]
    tensors = {name: torch.randn(300, 300, generator=rng) for name in names}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


SLOW_SCAN = """
import sys, time
from kappa_lib.spectra.scan import scan
scan(sys.argv[1], sys.argv[2], progress=lambda done, total, name: time.sleep(0.3))
"""


@pytest.mark.slow
def test_killed_scan_resumes_to_the_same_files(folder, tmp_path):
    scan(folder, tmp_path / "whole")
    cut = tmp_path / "cut"
    child = subprocess.Popen([sys.executable, "-c", SLOW_SCAN, str(folder), str(cut)])
    rows = cut / "kappa.rows.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (rows.is_file() and rows.stat().st_size):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (cut / "kappa.parquet").exists()
    assert 0 < len(rows.read_text().splitlines()) < 6
    with open(rows, "a") as stream:
        stream.write('{"key": "half a li')
    scan(folder, cut)
    for name in ("kappa.csv", "kappa.parquet", "kappa.rows.jsonl"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_broken_tensors_are_named_and_the_rest_is_kept(tmp_path):
    tensors = {
        "layers.0.a.weight": torch.randn(4, 4),
        "layers.0.b.weight": torch.full((4, 4), torch.nan),
        "layers.0.c.weight": torch.zeros(4, 4),
        "layers.0.d.qweight": torch.ones(4, 4, dtype=torch.int32),
        "layers.0.e.weight": torch.empty(0, 4),
        "layers.0.f.weight": torch.zeros(4, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ScanError) as caught:
        scan(tmp_path, tmp_path / "out")
    assert set(caught.value.failures) == set(tensors) - {"layers.0.a.weight"}
    for word in ("NaN", "all zero", "packed as I32", "empty"):
        assert word in str(caught.value)
    # What to do is said once for those of a kind.
    assert re.search(r"layers\.0\.c\.[^→]*\n *layers\.0\.f\.[^→]*\n *→ exclude", str(caught.value))
    assert list(kappa_table.read(tmp_path / "out")["tensor"]) == ["layers.0.a.weight"]


def test_missing_shard_is_named_and_the_rest_is_kept(llama, tmp_path):
    llama.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    gone = index["model.layers.0.mlp.up_proj.weight"]
    (tmp_path / gone).unlink()
    with pytest.raises(ScanError, match=gone) as caught:
        scan(tmp_path)
    assert "model.layers.0.mlp.up_proj.weight" not in set(caught.value.table["tensor"])
    assert 0 < len(caught.value.table) < MATRICES


def test_experts_are_measured_a_slice_at_a_time(tmp_path):
    experts = torch.randn(3, 6, 4, dtype=torch.float64)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    save_file({name: experts}, tmp_path / "model.safetensors")
    table = scan(tmp_path)
    assert list(table["tensor"]) == [f"{name}[{i}]" for i in range(3)]
    np.testing.assert_allclose(table["kappa"], np.linalg.cond(experts.numpy()), rtol=1e-10)
    assert set(table["type"]) == {"gate_up_proj"}
    experts[1] = torch.inf
    save_file({name: experts}, tmp_path / "model.safetensors")
    with pytest.raises(ScanError) as caught:
        scan(tmp_path)
    assert list(caught.value.failures) == [f"{name}[1]"]
    assert len(caught.value.table) == 2


def test_convolutions_are_out_by_rest_and_conv1d_as_stored():
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 5), "c_attn": Conv1D(12, 4)})
    table = scan(model).set_index("type")
    assert (table.loc["conv", "rows"], table.loc["conv", "cols"]) == (8, 75)
    flat = model["conv"].weight.detach().double().reshape(8, 75).numpy()
    assert table.loc["conv", "kappa"] == pytest.approx(np.linalg.cond(flat), rel=1e-9)
    assert (table.loc["c_attn", "rows"], table.loc["c_attn", "cols"]) == (4, 12)


def test_patterns_choose_and_an_empty_choice_is_refused(llama):
    assert not any("lm_head" in name for name in scan(llama)["tensor"])
    assert list(scan(llama, include=["lm_head*"])["tensor"]) == ["lm_head.weight"]
    table = scan(llama, include=["*q_proj*", "*k_proj*"], exclude=["*.1.*"])
    assert set(table["tensor"]) == {f"model.layers.0.self_attn.{p}_proj.weight" for p in "qk"}
    with pytest.raises(InputError, match="no matrix left"):
        scan(llama, include=["nothing*"])


def test_a_string_is_one_pattern_and_not_its_letters(llama):
    name = "model.layers.0.mlp.up_proj.weight"
    assert list(scan(llama, include=name)["tensor"]) == [name]
    assert set(scan(llama)["tensor"]) - set(scan(llama, exclude=name)["tensor"]) == {name}


@pytest.mark.parametrize("source", [None, 3, {"a.weight": torch.eye(2)}, torch.eye(2)])
def test_what_is_no_model_is_refused(source):
    with pytest.raises(InputError, match=rf"{type(source).__name__} is no model"):
        scan(source)


@pytest.mark.parametrize("path", ["./missing", "../missing"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(path):
    with pytest.raises(InputError, match="check the path"):
        scan(path)


@pytest.mark.parametrize("device", ["mps", "tpu"])
def test_devices_with_wrong_small_values_are_refused(device):
    with pytest.raises(InputError, match=device):
        scan(nn.Linear(4, 4), device=device)
