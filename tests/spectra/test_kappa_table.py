"""Null tables and what selections consist of."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from kappa_lib.spectra import kappa_table, spectrum
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.selection import select
from kappa_lib.theory.theorem import am_gm_gap

LLAMA = kappa_table.null_table(kappa_table.LLAMA_8B, 32)


def test_llama_has_the_papers_224_matrices_and_published_size():
    assert len(LLAMA) == 224
    # 8.03 billion less two 128256 × 4096 tables and the norms.
    parameters = int((LLAMA["rows"] * LLAMA["cols"]).sum())
    assert parameters == 8_030_261_248 - 2 * 128_256 * 4096 - (2 * 32 + 1) * 4096


def test_null_selection_of_llama_divides_by_type():
    low = kappa_table.composition(LLAMA, select(LLAMA, "selected", 100).tensors)["tensors"]
    high = kappa_table.composition(LLAMA, select(LLAMA, "inverse", 100).tensors)["tensors"]
    assert low["k_proj"] == low["v_proj"] == high["q_proj"] == high["o_proj"] == 32
    assert low["q_proj"] == low["o_proj"] == high["k_proj"] == high["v_proj"] == 0


TYPES = {
    "encoder.layer.3.attention.self.query.weight": "query",
    "encoder.layer.3.attention.output.dense.weight": "attention.output.dense",
    "encoder.layer.3.intermediate.dense.weight": "encoder.layer.intermediate.dense",
    "encoder.layer.3.output.dense.weight": "layer.output.dense",
    "decoder.layer.0.intermediate.dense.weight": "decoder.layer.intermediate.dense",
    "vision_tower.encoder.layers.0.self_attn.q_proj.weight": "encoder.layers.self_attn.q_proj",
    "language_model.layers.0.self_attn.q_proj.weight": "language_model.layers.self_attn.q_proj",
    "language_model.layers.0.self_attn.o_proj.weight": "o_proj",
    "layers.1.mlp.experts.up_proj[7]": "experts.up_proj",
    "layers.1.mlp.experts.0.up_proj.weight": "experts.up_proj",
    "layers.1.mlp.shared_expert.up_proj.weight": "shared_expert.up_proj",
    "pooler.dense.weight": "pooler.dense",
    "lm_head.weight": "lm_head",
    "layers.0.weight": "layers",
    "weight": "weight",
}


def test_types_of_nested_modules_experts_and_what_is_in_no_layer():
    assert kappa_table.types_of(TYPES) == TYPES
    assert kappa_table.types_of(reversed(TYPES)) == TYPES
    assert kappa_table.types_of([]) == {}


def test_types_are_in_the_order_of_a_layer_whatever_stands_before_their_names():
    kinds = ["up_proj", "x.v_proj", "x.q_proj", "y.q_proj", "fc1"]
    table = pd.DataFrame({"layer": 0, "type": kinds})
    assert kappa_table.types(table) == ["x.q_proj", "y.q_proj", "x.v_proj", "up_proj", "fc1"]


def test_composition_adds_up():
    chosen = select(LLAMA, "random", 50, seed=3)
    parts = kappa_table.composition(LLAMA, chosen.tensors)
    assert parts["tensors"].sum() == 50
    assert parts["of"].sum() == 224
    assert parts["parameters"].sum() == chosen.parameters


@pytest.mark.parametrize(("rows", "cols", "draws"), [(64, 192, 400), (192, 64, 400), (90, 90, 400)])
def test_quantiles_of_the_null_are_those_of_drawn_matrices(rows, cols, draws):
    rng = np.random.default_rng(0)
    s = np.linalg.svd(rng.normal(size=(draws, rows, cols)), compute_uv=False)
    kappas = s[:, 0] / s[:, -1]
    for share in (0.1, 0.5, 0.9):
        found = np.mean(kappas < spectrum.null_kappa_quantile(rows, cols, share))
        # Three standard errors of a share, and what is asymptotic in the laws.
        assert found == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / draws) + 0.04)


def test_a_table_of_extremes_alone_is_read_again(tmp_path):
    """Of large matrices that method knows no effective rank, which Parquet keeps as null."""
    large = torch.randn(1030, 1024, generator=torch.Generator().manual_seed(0))
    save_file({"layers.0.up_proj.weight": large}, tmp_path / "model.safetensors")
    table = scan(tmp_path / "model.safetensors", tmp_path, device="cpu", method="extremes")
    assert table["effective_rank"].isna().all()
    assert kappa_table.read(tmp_path).equals(table)


def table_of(spectra):
    """κ table of named spectra: a list of (type, s)."""
    return pd.DataFrame(
        {
            "type": kind,
            "rows": len(s),
            "cols": len(s) + 3,
            "rank_deficiency": 0,
            "kappa": s.max() / s.min(),
            "frobenius": float(np.sqrt(s @ s)),
            "log_volume": float(np.log(s).sum()),
        }
        for kind, s in spectra
    )


def test_volume_loss_is_the_gap_per_singular_value():
    s = np.array([3.0, 2.0, 0.1])
    (value,) = kappa_table.volume_loss(table_of([("a", s)]))
    assert value == pytest.approx(am_gm_gap(s) / 3)
    (scaled,) = kappa_table.volume_loss(table_of([("a", 1000 * s)]))
    assert scaled == pytest.approx(value)


def test_type_explains_all_or_nothing():
    table = pd.DataFrame({"type": list("aabb"), "kappa": [2.0, 2.0, 50.0, 50.0]})
    assert kappa_table.explained_by_type(table) == pytest.approx(1)
    mixed = table.assign(type=list("abab"))
    assert kappa_table.explained_by_type(mixed) == pytest.approx(0)
