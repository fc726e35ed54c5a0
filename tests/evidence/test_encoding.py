import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from kappa_lib.encoding.damage import CHANGES
from kappa_lib.errors import InputError
from kappa_lib.evidence import encoding
from kappa_lib.evidence.correlation import within_types
from kappa_lib.files import write_json
from tools.associations import associations

LAYERS, KINDS = 12, ("q_proj", "v_proj", "up_proj")


@pytest.fixture
def folder(tmp_path):
    """Tables of a made-up study: the deficit follows κ within types, the KL is its reverse."""
    rng = np.random.default_rng(0)
    tensors = pd.DataFrame(
        [
            {"tensor": f"layers.{layer}.{kind}", "type": kind, "layer": layer}
            for layer in range(LAYERS)
            for kind in KINDS
        ]
    )
    shape = tensors["type"].map({"q_proj": 1000.0, "v_proj": 1.0, "up_proj": 10.0})
    tensors["kappa"] = shape * np.exp(rng.standard_normal(len(tensors)))
    # Between types the deficit goes the other way.
    tensors["deficit"] = tensors["kappa"] / shape - np.log(shape)
    damage = [
        {
            "tensor": row.tensor,
            "change": change,
            "block": block,
            "size": 0.1,
            "text": text,
            "loss": 0.5 if change == "flattened" else 0.2 + 0.01 * block,
            "kl": shape[row.Index] / row.kappa + 0.001 * block,
        }
        for row in tensors.itertuples()
        for change in CHANGES
        for block in (0, 1)
        for text in ("english", "german")
    ]
    costly = ("v_proj", "all")
    surgery = [
        {
            "scope": scope,
            "change": change,
            "text": "english",
            "window": window,
            "kl": 0.1,
            "loss": (2.0 if change == "surgery" and scope in costly else 0.0) + 0.1 * window,
        }
        for scope in (*KINDS, "all")
        for change in ("surgery", "surgery_elsewhere", "surgery_noise")
        for window in range(5)
    ]
    tables = {"tensors": tensors, "damage": pd.DataFrame(damage), "surgery": pd.DataFrame(surgery)}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    write_json(tmp_path / "facts.json", {"settings": {}})
    return tmp_path


def test_within_types_is_spearman_s_rho_of_each_type_and_not_the_pooled_one(folder):
    table = encoding.read(folder).tensors
    found = within_types(table, "kappa", "deficit", resamples=50)
    assert found.estimate == pytest.approx(1)
    assert found.n == LAYERS
    assert spearmanr(table["kappa"], table["deficit"]).statistic < 0
    reverse = within_types(table, "kappa", "kl_redrawn", resamples=50)
    assert reverse.ends == pytest.approx((-1, -1, -1))


def test_costs_are_means_over_blocks_and_texts_and_their_differences(folder):
    table = encoding.read(folder).tensors
    assert table["loss_permuted"].tolist() == pytest.approx([0.205] * 36)
    found = encoding.cost(table, "flattened", "flattened_noise")
    assert found.ends == pytest.approx((0.295,) * 3)
    assert encoding.cost(table, "permuted").estimate == pytest.approx(0.205)


def test_surgery_costs_have_intervals_over_windows(folder):
    surgery = encoding.read(folder).surgery
    found = encoding.surgery_cost(surgery, "all")
    assert found.estimate == pytest.approx(2.2)
    assert found.low < found.estimate < found.high
    table = encoding.surgery_table(surgery).set_index(["scope", "change"])
    assert table.loc[("all", "surgery"), "loss"] == pytest.approx(2.2)
    assert len(table) == 12


def test_associations_have_every_pair_and_holm_over_the_predictors(folder):
    table = encoding.read(folder).tensors
    found = associations(
        table, ["kappa", "deficit", "layer"], ["deficit", "kl_redrawn"], resamples=60
    )
    assert len(found) == 5
    assert (found["p_holm"] >= found["p"]).all()
    row = found.set_index(["outcome", "predictor"]).loc[("deficit", "kappa")]
    assert row["within"] == pytest.approx(1)
    assert row["beside_layer"] == pytest.approx(1)
    pooled = spearmanr(table["kappa"], table["deficit"]).statistic
    assert row["pooled"] == pytest.approx(pooled)


def test_an_unfinished_study_names_the_command(folder):
    (folder / "damage.csv").unlink()
    with pytest.raises(InputError, match=r"no damage(.|\n)*kappa_lib\.encoding\.study"):
        encoding.read(folder)


def test_tables_of_different_studies_are_refused(folder):
    table = pd.read_csv(folder / "tensors.csv")
    table.iloc[1:].to_csv(folder / "tensors.csv", index=False)
    with pytest.raises(InputError, match="different tensors"):
        encoding.read(folder)


def test_stability_stands_beside_the_tensors(folder):
    """A noise scale that is infinite ranks highest."""
    table = pd.read_csv(folder / "tensors.csv")
    stable = pd.DataFrame({"tensor": table["tensor"], "kl": -table["kappa"]})
    stable["noise_scale"] = table["kappa"].where(table["kappa"] < 100, np.inf)
    stable.to_csv(folder / "stability.csv", index=False)
    found = encoding.read(folder).tensors
    assert within_types(found, "kappa", "kl_noise", resamples=1).estimate == pytest.approx(-1)
    few = found[found["type"] == "v_proj"].assign(noise_scale=[*range(11), np.inf])
    few["kappa"] = few["noise_scale"].rank()
    assert within_types(few, "kappa", "noise_scale", resamples=1).estimate == pytest.approx(1)


def test_windows_are_compared_with_themselves(folder):
    """The windows differ by more than most changes cost; the pairs do not."""
    found = encoding.smallest(folder)[["nats per token", "reading"]]
    assert found.loc["v_proj"].tolist() == ["+2.000 [+2.000, +2.000]", "higher"]
    for kind in ("q_proj", "up_proj"):
        nothing = ["+0.000 [+0.000, +0.000]", "no relevant difference"]
        assert found.loc[kind].tolist() == nothing
