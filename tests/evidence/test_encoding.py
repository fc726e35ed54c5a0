import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from kappa_lib.encoding.damage import CHANGES
from kappa_lib.errors import InputError
from kappa_lib.evidence import encoding
from kappa_lib.evidence.encoding import within_types

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
    return tmp_path


def test_within_types_is_spearman_s_rho_of_each_type_and_not_the_pooled_one(folder):
    table = encoding.tensors(folder)
    found = within_types(table, "kappa", "deficit", resamples=50)
    assert found.estimate == pytest.approx(1)
    assert found.n == LAYERS
    assert spearmanr(table["kappa"], table["deficit"]).statistic < 0
    reverse = within_types(table, "kappa", "kl_redrawn", resamples=50)
    assert reverse.ends == pytest.approx((-1, -1, -1))


def test_costs_are_means_over_blocks_and_texts_and_their_differences(folder):
    table = encoding.tensors(folder)
    assert table["loss_permuted"].tolist() == pytest.approx([0.205] * 36)
    found = encoding.cost(table, "flattened", "flattened_noise")
    assert found.ends == pytest.approx((0.295,) * 3)
    assert encoding.cost(table, "permuted").estimate == pytest.approx(0.205)


def test_surgery_costs_have_intervals_over_windows(folder):
    surgery = pd.read_csv(folder / "surgery.csv")
    found = encoding.surgery_cost(surgery, "all")
    assert found.estimate == pytest.approx(2.2)
    assert found.low < found.estimate < found.high
    table = encoding.surgery_table(surgery).set_index(["scope", "change"])
    assert table.loc[("all", "surgery"), "loss"] == pytest.approx(2.2)
    assert len(table) == 12


def test_an_unfinished_study_names_what_is_missing(folder):
    (folder / "damage.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"damage\.csv"):
        encoding.tensors(folder)


def test_tables_of_different_studies_are_refused(folder):
    table = pd.read_csv(folder / "tensors.csv")
    table.iloc[1:].to_csv(folder / "tensors.csv", index=False)
    with pytest.raises(InputError, match="different tensors"):
        encoding.tensors(folder)


def test_stability_stands_beside_the_tensors(folder):
    """A noise scale that is infinite ranks highest."""
    table = pd.read_csv(folder / "tensors.csv")
    stable = pd.DataFrame({"tensor": table["tensor"], "kl": -table["kappa"]})
    stable["noise_scale"] = table["kappa"].where(table["kappa"] < 100, np.inf)
    stable.to_csv(folder / "stability.csv", index=False)
    found = encoding.tensors(folder)
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


def correlated(x, y, layers, types="one", **options):
    """ρ of two sequences with a 95 % interval, from a table of them."""
    table = pd.DataFrame({"x": x, "y": y, "layer": layers, "type": types})
    return within_types(table, "x", "y", level=0.95, **options)


def test_rank_correlation_is_scipys_in_a_single_type():
    rng = np.random.default_rng(5)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    found = correlated(x, y, range(60))
    assert found.estimate == pytest.approx(spearmanr(x, y).statistic)
    # Fisher's interval for ranks (Bonett and Wright 2000).
    half = 1.96 * np.sqrt((1 + found.estimate**2 / 2) / 57)
    theirs = np.tanh(np.arctanh(found.estimate) + np.array([-half, half]))
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.08)


def test_types_are_taken_out():
    rng = np.random.default_rng(6)
    types, layers = np.repeat([0, 1, 2], 30), np.tile(np.arange(30), 3)
    x, y = 10 * types + rng.normal(size=90), 10 * types + rng.normal(size=90)
    assert correlated(x, y, layers, resamples=200).estimate > 0.8
    within = correlated(x, y, layers, types.astype(str), resamples=500)
    assert within.low < 0 < within.high
    with pytest.raises(InputError, match="no spread"):
        correlated([1.0] * 5, range(5), range(5))


def test_the_interval_is_that_of_resamples_written_out_one_by_one():
    """Layers put together anew, ranks within types and with ties, by scipy and numpy alone."""
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 5, 40).astype(float), rng.standard_normal(40).round(1)
    layers, kinds = rng.integers(0, 9, 40), rng.choice(["q", "v", "up"], 40)
    draws, resamples = np.random.default_rng(0), []
    for _ in range(300):
        picked = [np.flatnonzero(layers == k) for k in draws.integers(9, size=9)]
        picked, columns = np.concatenate(picked), []
        for values in (x, y):
            column = np.empty(len(picked))
            for kind in np.unique(kinds[picked]):
                here = kinds[picked] == kind
                ranks = rankdata(values[picked][here])
                column[here] = (ranks - ranks.mean()) / len(ranks)
            columns.append(column)
        first, second = columns
        resamples.append(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    found = correlated(x, y, layers, kinds, resamples=300)
    assert [found.low, found.high] == pytest.approx(np.percentile(resamples, [2.5, 97.5]))
