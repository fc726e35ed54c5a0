"""Two checkpoints compared: a planted rotation and scaling are found, other shapes refused."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import save_file

from kappa_lib.errors import InputError
from kappa_lib.run import cli
from kappa_lib.spectra.compare import compare
from kappa_lib.spectra.scan import ScanError, scan
from kappa_lib.weights.models import open_checkpoint

ANGLE = 0.3
NAME = "model.layers.{}.mlp.up_proj.weight"


def orthogonal(n, cols, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0][:, :cols]


@pytest.fixture
def pair(tmp_path):
    """Three layers: untouched; σ₁ doubled; the plane of v₁ and v₁₂ turned by an angle."""
    s = np.geomspace(10, 1, 20)
    u, v = orthogonal(30, 20, 0), orthogonal(20, 20, 1)
    scaled, turned = s.copy(), v.copy()
    scaled[0] *= 2
    turned[:, 0] = math.cos(ANGLE) * v[:, 0] + math.sin(ANGLE) * v[:, 11]
    turned[:, 11] = math.cos(ANGLE) * v[:, 11] - math.sin(ANGLE) * v[:, 0]
    before = {NAME.format(i): torch.from_numpy(u * s @ v.T) for i in range(3)}
    matrices = (u * s @ v.T, u * scaled @ v.T, u * s @ turned.T)
    after = {NAME.format(i): torch.from_numpy(m) for i, m in enumerate(matrices)}
    before["model.layers.0.old.weight"] = after["model.layers.0.new.weight"] = torch.eye(4)
    save_file(before, tmp_path / "before.safetensors")
    save_file(after, tmp_path / "after.safetensors")
    return tmp_path / "before.safetensors", tmp_path / "after.safetensors", matrices


def test_types_are_those_of_a_scan(tmp_path):
    """Two modules of GPT-2 share a name, which here as there gets the parent's before it."""
    llm = tiny.gpt2()
    found = compare(llm, llm, tmp_path, device="cpu")
    assert set(found.table["type"]) == {"c_attn", "c_fc", "attn.c_proj", "mlp.c_proj"}
    assert found.table["type"].tolist() == scan(llm, device="cpu")["type"].tolist()
    assert pd.read_csv(tmp_path / "compare.csv")["type"].tolist() == found.table["type"].tolist()


def test_scaling_and_rotation_are_found(pair):
    before, after, matrices = pair
    found = compare(before, after, device="cpu")
    same, grown, turned = found.table.to_dict("records")
    assert same["relative_change"] == same["dlogkappa"] == 0
    assert grown["dlogkappa"] == pytest.approx(math.log(2))
    assert grown["angle_top_right"] < 1e-6
    assert turned["dlogkappa"] == pytest.approx(0, abs=1e-9)
    assert turned["angle_top_right"] == pytest.approx(ANGLE, abs=1e-6)
    assert max(turned["angle_top_left"], turned["angle_bottom_right"]) < 1e-6
    norms = [np.linalg.norm(m) for m in (matrices[2] - matrices[0], matrices[0])]
    assert turned["relative_change"] == pytest.approx(norms[0] / norms[1])
    assert [found.only_before, found.only_after] == [
        ["model.layers.0.old.weight"], ["model.layers.0.new.weight"],
    ]  # fmt: skip


def test_the_summary_counts_and_takes_means(pair):
    found = compare(*pair[:2], device="cpu")
    (whole,) = found.summary().to_dict("records")
    assert (whole["type"], whole["tensors"], whole["changed"]) == ("up_proj", 3, 2)
    assert whole["dlogkappa"] == pytest.approx(math.log(2) / 3)
    assert whole["angle_top_right"] == pytest.approx(ANGLE / 3, abs=1e-6)


def test_one_stored_tensor_of_each_is_read_at_a_time(pair, monkeypatch):
    seen, told = [], []

    def watched(path):
        opened = open_checkpoint(path)
        opened.tensors = [
            replace(i, source=lambda i=i: seen.append((i.name, path)) or i.read())
            for i in opened.tensors
        ]
        return opened

    monkeypatch.setattr("kappa_lib.spectra.compare.open_checkpoint", watched)
    compare(*pair[:2], device="cpu", progress=lambda *state: told.append(state))
    assert seen == [(NAME.format(i), path) for i in range(3) for path in pair[:2]]
    assert told == [*((i, 3, NAME.format(i)) for i in range(3)), (3, 3, "")]


def test_other_shapes_and_strangers_are_refused(pair, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({NAME.format(1): torch.eye(20)}, other)
    with pytest.raises(InputError, match=r"shapes of 1 of 1 tensors: .* is 30×20 and 20×20"):
        compare(pair[0], other, device="cpu")
    save_file({"layers.0.x.weight": torch.eye(2)}, other)
    with pytest.raises(InputError, match="no matrix in common"):
        compare(pair[0], other, device="cpu")


def test_a_pair_that_cannot_be_compared_is_named_and_the_rest_kept(pair, tmp_path):
    broken = tmp_path / "broken.safetensors"
    bad = torch.full((30, 20), math.nan, dtype=torch.float64)
    packed = {"layers.0.a.qweight": torch.ones(30, 20, dtype=torch.int32)}
    save_file({NAME.format(0): torch.ones(30, 20), NAME.format(1): bad} | packed, broken)
    with pytest.raises(ScanError, match=r"(?s)1 of 2 .*layers\.1\.mlp.*→ .*kept"):
        compare(pair[0], broken, tmp_path / "out", device="cpu")
    assert pd.read_csv(tmp_path / "out" / "compare.csv")["tensor"].tolist() == [NAME.format(0)]


def test_the_command_writes_the_comparison_and_its_page(pair, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["scan", str(pair[0]), "--compare", str(pair[1]), "-o", str(out)]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    table = pd.read_csv(out / "compare.csv").set_index("tensor")
    assert table.loc[NAME.format(1), "dlogkappa"] == pytest.approx(math.log(2))
    text = (out / "kappa.html").read_text(encoding="utf-8")
    assert re.search(r"What changed from .*before.safetensors to .*after.safetensors<", text)
    assert re.search(r"Only in the first, .*before.safetensors: model.layers.0.old.weight", text)
    shown = capsys.readouterr().out
    assert "only in the first: 1 tensor, such as model.layers.0.old.weight" in shown
    assert "only in the second: 1 tensor, such as model.layers.0.new.weight" in shown
    assert "dlogkappa" in shown
    assert "kappa.html: to look at in a browser" in shown
