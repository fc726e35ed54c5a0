"""Arms on a table whose right answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.profiles import load
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.spectra.arms import ARMS
from kappa_lib.spectra.selection import Selection, select

SHAPES = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "mlp.up_proj": (16, 8)}


def make_table(layers: int = 10) -> pd.DataFrame:
    rows = []
    for layer in range(layers):
        for place, (module, (m, n)) in enumerate(SHAPES.items()):
            kappa = [1000.0, 20.0, 10.0][place] + layer
            rows.append(
                {
                    "tensor": f"model.layers.{layer}.{module}.weight",
                    "type": module.split(".")[1],
                    "layer": layer,
                    "rows": m,
                    "cols": n,
                    "kappa": kappa,
                    "kappa_excess": kappa / (m + n),
                }
            )
    rows.append({"tensor": "lm_head.weight", "type": "lm_head", "rows": 64, "cols": 8, "kappa": 1})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


TABLE = make_table()


def types(arm: str, count: int, seed: int = 0) -> dict[str, int]:
    names = select(TABLE, arm, count, seed).tensors
    return pd.Series(names, dtype=str).str.split(".").str[-2].value_counts().to_dict()


@pytest.mark.parametrize(
    ("arm", "found", "layer"),
    [
        ("selected", {"up_proj": 10, "k_proj": 2}, 1),  # the smallest inside the layers
        ("inverse", {"q_proj": 10, "k_proj": 2}, 9),
        ("mlp", {"up_proj": 10}, None),
        ("attention", {"q_proj": 10, "k_proj": 10}, 9),
        ("all", {"q_proj": 10, "k_proj": 10, "up_proj": 10}, 9),
        ("adaptor_only", {}, None),
    ],
)
def test_an_arm_takes_what_its_rule_says(arm, found, layer):
    chosen = select(TABLE, arm, 12)
    assert types(arm, 12) == found
    sizes = {
        kind: m * n
        for (m, n), kind in zip(SHAPES.values(), ("q_proj", "k_proj", "up_proj"), strict=True)
    }
    assert chosen.parameters == sum(sizes[kind] * count for kind, count in found.items())
    if layer is not None:
        assert f"model.layers.{layer}.self_attn.k_proj.weight" in chosen.tensors


@pytest.fixture
def scanned(tmp_path):
    """A κ table on disk: three matrices in layers, and one outside."""
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)] + ["lm_head.weight"]
    random = torch.Generator().manual_seed(0)
    rows = [kappa_table.measure(torch.randn(6, 4, generator=random), name) for name in names]
    kappa_table.write(kappa_table.build(rows, {}), tmp_path)
    return tmp_path


def beside(folder, kappas, input_kappas):
    rows = zip(kappas, input_kappas, strict=True)
    frame = pd.DataFrame(
        [
            {"tensor": f"model.layers.{i}.mlp.up_proj.weight", "kappa": k, "input_kappa": x}
            for i, (k, x) in enumerate(rows)
        ]
    )
    (folder / kappa_table.INPUTS).parent.mkdir()
    frame[::-1].to_csv(folder / kappa_table.INPUTS, index=False, float_format="%.6g")


def test_input_kappa_ranks_by_what_was_measured_on_real_inputs(scanned):
    beside(scanned, kappa_table.read(scanned)["kappa"][:3], [5.0, 900.0, 40.0])
    table = kappa_table.read(scanned)
    lowest, highest = (select(table, f"{end}_input_kappa", 1) for end in ("lowest", "highest"))
    assert lowest.tensors == ["model.layers.0.mlp.up_proj.weight"]
    assert highest.tensors == ["model.layers.1.mlp.up_proj.weight"]


def test_inputs_of_another_model_are_refused(scanned):
    beside(scanned, kappa_table.read(scanned)["kappa"][:3] * 1.01, [5.0, 900.0, 40.0])
    with pytest.raises(InputError, match="not of the tensors"):
        kappa_table.read(scanned)


def test_papers_share_of_the_papers_model_is_100_and_of_this_one_94():
    assert selection.count_for(make_table(75).head(224)) == 100
    assert selection.count_for(make_table(70)) == 94


def test_within_type_takes_the_same_share_of_each():
    assert types("lowest_in_type", 6) == {"q_proj": 2, "k_proj": 2, "up_proj": 2}
    low = select(TABLE, "lowest_in_type", 6).tensors
    high = select(TABLE, "highest_in_type", 6).tensors
    assert all(".0." in name or ".1." in name for name in low)
    assert all(".8." in name or ".9." in name for name in high)
    assert sum(types("lowest_in_type", 10).values()) == 10  # where shares are fractions


def test_random_like_selected_has_its_types_and_size():
    assert types("random_like_selected", 12, 3) == types("selected", 12)
    like, selected = (select(TABLE, arm, 12, 3) for arm in ("random_like_selected", "selected"))
    assert like.parameters == selected.parameters
    assert like.tensors != selected.tensors


@pytest.mark.parametrize("arm", ["random_matched_size", "inverse_matched_size"])
def test_matched_size_is_within_one_percent(arm):
    table = make_table(60)
    wanted = select(table, "selected", 80).parameters
    assert select(table, arm, 80).parameters == pytest.approx(wanted, rel=0.01)


NEIGHBOURS = ("lower_of_neighbours", "higher_of_neighbours")


def test_of_two_neighbouring_layers_each_arm_has_one():
    """By hand: q is lower in layers 0 and 3, k in 1 and, of a tie, in 2; layer 4 has no pair."""
    kappas = {"q_proj": [3, 5, 9, 2, 1], "k_proj": [8, 7, 6, 6, 1]}
    table = pd.DataFrame(
        [
            (f"model.layers.{layer}.self_attn.{kind}.weight", kind, layer, 4, 4, kappa)
            for kind, values in kappas.items()
            for layer, kappa in enumerate(values)
        ],
        columns=["tensor", "type", "layer", "rows", "cols", "kappa"],
    )
    for arm, layers in zip(NEIGHBOURS, ("q0 q3 k1 k2", "q1 q2 k0 k3"), strict=True):
        chosen = select(table, arm, 1).tensors
        found = {f"{name.split('.')[4][0]}{name.split('.')[2]}" for name in chosen}
        assert found == set(layers.split())


@given(layers=st.integers(2, 9), experts=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_neighbours_are_alike_in_all_but_kappa(layers, experts, seed):
    rng = np.random.default_rng(seed)
    shapes = {"q_proj": (8, 8), "v_proj": (4, 8)} | {
        f"experts.{i}.up_proj": (16, 8) for i in range(experts)
    }
    table = kappa_table.null_table(shapes, layers).sample(frac=1, random_state=seed % 2**31)
    table["kappa"] = rng.integers(1, 6, len(table))
    rows = table.set_index("tensor")
    low, high = (select(table, arm, 1) for arm in NEIGHBOURS)
    a, b = (rows.loc[chosen.tensors] for chosen in (low, high))
    assert low.parameters == high.parameters
    assert a["type"].value_counts().to_dict() == b["type"].value_counts().to_dict()
    assert len(a) == len(b) == len(shapes) * (layers // 2)
    assert not set(low.tensors) & set(high.tensors)
    assert a["kappa"].sum() <= b["kappa"].sum()
    assert (np.sort(a["layer"] // 2) == np.sort(b["layer"] // 2)).all()


def test_attention_and_mlp_at_equal_size_on_the_default_model():
    """Published shapes of SmolLM2-135M: attention is as large as the MLPs of ten layers."""
    hidden, key, inner = 576, 192, 1536
    shapes = {f"self_attn.{kind}_proj": (hidden, hidden) for kind in "qo"}
    shapes |= {f"self_attn.{kind}_proj": (key, hidden) for kind in "kv"}
    shapes |= {f"mlp.{kind}_proj": (inner, hidden) for kind in ("gate", "up")}
    table = kappa_table.null_table(shapes | {"mlp.down_proj": (hidden, inner)}, 30)
    whole, attention, mlp = (
        select(table, arm, 1) for arm in ("attention", "attention_matched_size", "mlp_matched_size")
    )
    assert attention.tensors == whole.tensors
    assert attention.parameters == mlp.parameters == 26_542_080
    layers = {name.split(".")[2] for name in mlp.tensors}
    assert layers == {str(layer) for layer in range(1, 30, 3)}
    assert len(mlp.tensors) == 30


def test_the_larger_module_is_cut_whichever_it_is():
    """A layer has 128 parameters of MLP and 96 of attention; 960 are 7.5 layers, cut to 7."""
    assert types("mlp_matched_size", 1) == {"up_proj": 7}
    assert types("attention_matched_size", 1) == types("attention", 1)
    wide = TABLE.assign(rows=TABLE["rows"].where(TABLE["type"] != "q_proj", 40))
    assert select(wide, "mlp_matched_size", 1) == replace(
        select(wide, "mlp", 1), arm="mlp_matched_size", rule=ARMS["mlp_matched_size"][0]
    )
    cut = select(wide, "attention_matched_size", 1)
    assert cut.parameters == 4 * (40 * 8 + 4 * 8)
    assert {name.split(".")[2] for name in cut.tensors} == {"1", "3", "6", "8"}


def test_runs_of_a_drawn_arm_have_draws_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    arms = ["selected", "random", "random_matched_size"]
    profile = profiles.load("smoke").model_copy(update=dict(arms=arms, seeds=[0, 1, 2]))
    returned = selection.select_stage(profile, TABLE)
    written = {path.name for path in (profile.folder / "selections").iterdir()}
    drawn = {f"{arm}-seed{seed}.json" for arm in arms[1:] for seed in profile.seeds}
    assert written == {"selected.json"} | drawn
    count = selection.count_for(TABLE, profile.share)
    for arm in arms:
        runs = [selection.of_run(profile, arm, seed) for seed in profile.seeds]
        assert runs[0] == returned[arm] == select(TABLE, arm, count, profile.seed)
        different = len({tuple(run.tensors) for run in runs})
        assert different == (1 if arm == "selected" else 3)


@pytest.mark.parametrize("arm", ["selected", "inverse"])
def test_what_shape_alone_would_pick_is_the_mean_over_broken_ties(arm):
    rng = np.random.default_rng(0)
    shapes = {"a_proj": (8, 4), "b_proj": (8, 8), "c_proj": (16, 4), "d_proj": (4, 8)}
    table = kappa_table.null_table(shapes, 6)
    table["kappa"] = rng.uniform(1, 5, len(table))
    chosen = selection.select(table, arm, 10)
    null = table["kappa_mp"] * (1 if arm == "selected" else -1)
    found = []
    for _ in range(4000):
        order = np.lexsort([rng.uniform(size=len(table)), null])
        found.append(table["tensor"].iloc[order[:10]].isin(chosen.tensors).sum())
    error = np.std(found) / np.sqrt(len(found))
    assert selection.picked_by_shape(table, chosen) == pytest.approx(np.mean(found), abs=5 * error)


def test_a_file_holds_a_selection_or_is_refused(tmp_path):
    chosen = select(TABLE, "selected", 12)
    chosen.save(tmp_path / "selected.json")
    assert Selection.load(tmp_path / "selected.json") == chosen
    (tmp_path / "x.json").write_text("{}")
    for name in ("x.json", "missing.json"):
        with pytest.raises(InputError, match=rf"{name}: not a selection"):
            Selection.load(tmp_path / name)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: select(TABLE, "selected", 0), "can't be selected"),
        (lambda: select(TABLE, "selected", 31), "can't be selected"),
        (lambda: select(TABLE, "selected", 0.2), "whole count from 1 to 30, or a share"),
        (lambda: select("kappa/kappa.parquet"), "str is no κ table"),
        (lambda: select(TABLE.drop(columns="kappa")), "DataFrame is no κ table"),
        (lambda: select(TABLE, "best", 3), "no arm 'best'"),
        (lambda: select(make_table(1), "inverse_matched_size", 1), "nearest"),
        (lambda: select(make_table(1), NEIGHBOURS[0], 1), "no tensor of this model fits"),
        (lambda: load("text_early", arms=["adaptor_only"]), "adaptor_only"),
        (lambda: select(TABLE, "all").check(set(TABLE["tensor"][5:])), r"0\.mlp\.up_proj\.weight"),
    ],
)
def test_what_cannot_be_done_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
