import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from kappa_lib.encoding.damage import CHANGES
from kappa_lib.errors import InputError
from kappa_lib.evidence import encoding
from kappa_lib.evidence.encoding import within_types
from kappa_lib.evidence.verdicts import CORRECTED, FAILS, HOLDS, RULES, UNDECIDED, Interval
from kappa_lib.files import write_json

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
    surgery = [
        {
            "scope": scope,
            "change": change,
            "text": "english",
            "window": window,
            "kl": 0.1,
            "loss": {"surgery": 2.0}.get(change, 0.0) + 0.1 * window,
            "base": 3.0,
        }
        for scope in ("v_proj", "all")
        for change in ("surgery", "surgery_elsewhere", "surgery_noise")
        for window in range(5)
    ]
    tables = {"tensors": tensors, "damage": pd.DataFrame(damage), "surgery": pd.DataFrame(surgery)}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    write_json(tmp_path / "facts.json", {"settings": {}})
    pd.DataFrame({"outcome": []}).to_csv(tmp_path / "associations.csv", index=False)
    return tmp_path


def test_within_types_is_spearman_s_rho_of_each_type_and_not_the_pooled_one(folder):
    table = encoding.read(folder).tensors
    found = within_types(table, "kappa", "deficit", resamples=50)
    assert found.estimate == pytest.approx(1)
    assert found.n == LAYERS
    assert spearmanr(table["kappa"], table["deficit"]).statistic < 0
    reverse = within_types(table, "kappa", "kl_redrawn", resamples=50)
    assert encoding.triple(reverse) == pytest.approx([-1, -1, -1])


def test_joined_costs_are_means_over_blocks_and_texts(folder):
    results = encoding.read(folder)
    assert results.tensors["loss_permuted"].tolist() == pytest.approx([0.205] * 36)
    assert set(results.tensors["loss_flattened"]) == {0.5}


def test_costs_are_differences_of_changes(folder):
    table = encoding.read(folder).tensors
    found = encoding.cost(table, "flattened", "flattened_noise")
    assert encoding.triple(found) == pytest.approx([0.295] * 3)
    assert encoding.cost(table, "permuted").estimate == pytest.approx(0.205)


def test_surgery_costs_have_intervals_over_windows(folder):
    surgery = encoding.read(folder).surgery
    found = encoding.surgery_cost(surgery, "all")
    assert found.estimate == pytest.approx(2.2)
    assert found.low < found.estimate < found.high
    table = encoding.surgery_table(surgery).set_index(["scope", "change"])
    assert table.loc[("all", "surgery"), "loss"] == pytest.approx(2.2)
    assert len(table) == 6


@pytest.mark.parametrize(
    ("lost", "shuffled", "said", "unsaid"),
    [
        (0.2, 0.0, "equal costs more than noise", "spare something"),
        (0.2, 0.3, "not how unequally", "neither"),
        (0.2, -0.3, "spare something even on the wrong directions", "not how unequally"),
        (0.0, 0.0, "equal costs neither more nor less, by the interval, than noise", "five of"),
        (-0.2, 0.0, "equal costs less than noise", "five of"),
    ],
)
def test_that_directions_count_is_told_only_where_reordered_values_cost_no_less(
    folder, lost, shuffled, said, unsaid
):
    table = encoding.read(folder).tensors
    table["loss_flattened"] = table["loss_flattened_noise"] + lost
    found = [Interval(x, x - 0.1, x + 0.1, 0.975, LAYERS) for x in (lost, shuffled, 0.2)]
    text = encoding.anisotropy(table, *found)
    assert said in text
    assert unsaid not in text
    assert ("hold 14% of it; the median is +0.200" in text) is (lost > 0)  # 5 of 36
    assert "alone hurts the model" in text


def test_blocks_that_agree_are_reliable(folder):
    results = encoding.read(folder)
    assert encoding.reliability(results.damage, results.tensors)["redrawn"] == pytest.approx(1)


def test_associations_have_every_pair_and_holm_over_the_predictors(folder):
    table = encoding.read(folder).tensors
    found = encoding.associations(
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


UP, FLAT, DOWN, WIDE = [0.6, 0.4, 0.7], [0.0, -0.1, 0.1], [-0.5, -0.7, -0.4], [0.3, 0.1, 0.5]
LOSS, NONE, GAIN = [0.2, 0.1, 0.3], [0.0, -0.1, 0.1], [-0.2, -0.3, -0.1]


@pytest.mark.parametrize(
    ("claim", "numbers", "verdict"),
    [
        ("kappa-tracks-encoding", (UP, UP), HOLDS),
        ("kappa-tracks-encoding", (FLAT, FLAT), FAILS),
        ("kappa-tracks-encoding", (FLAT, DOWN), FAILS),
        ("kappa-tracks-encoding", (UP, FLAT), CORRECTED),
        ("kappa-tracks-encoding", (DOWN, UP), CORRECTED),
        ("kappa-tracks-encoding", (UP, WIDE), UNDECIDED),
        ("kappa-tracks-encoding", (WIDE, WIDE), UNDECIDED),
        ("encoding-capacity", (UP, UP), HOLDS),
        ("encoding-capacity", (UP, FLAT), CORRECTED),
        ("encoding-capacity", (FLAT, FLAT), FAILS),
        ("encoding-capacity", (UP, WIDE), UNDECIDED),
        ("pruning-by-kappa", (UP, UP), HOLDS),
        ("pruning-by-kappa", (DOWN, DOWN), CORRECTED),
        ("pruning-by-kappa", (DOWN, FLAT), UNDECIDED),
        ("pruning-by-kappa", (FLAT, FLAT), FAILS),
        ("pruning-by-kappa", (UP, FLAT), UNDECIDED),
        ("anisotropy-is-desirable", (LOSS, GAIN, NONE), HOLDS),
        ("anisotropy-is-desirable", (LOSS, LOSS, NONE), CORRECTED),
        ("anisotropy-is-desirable", (LOSS, GAIN, LOSS), CORRECTED),
        ("anisotropy-is-desirable", (NONE, NONE, NONE), UNDECIDED),
        ("anisotropy-is-desirable", (GAIN, LOSS, LOSS), FAILS),
    ],
)
def test_rules(claim, numbers, verdict):
    decision = RULES[claim](*numbers, layers=30)
    assert decision.verdict == verdict
    assert decision.n == 30
    assert list(decision.interval) in [list(found[1:]) for found in numbers]


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
    assert found.p < 0.001


def test_types_and_the_layer_are_taken_out():
    rng = np.random.default_rng(6)
    types, layers = np.repeat([0, 1, 2], 30), np.tile(np.arange(30), 3)
    x, y = 10 * types + rng.normal(size=90), 10 * types + rng.normal(size=90)
    assert correlated(x, y, layers, resamples=200).estimate > 0.8
    within = correlated(x, y, layers, types.astype(str), resamples=500)
    assert within.low < 0 < within.high
    deep_x, deep_y = layers + rng.normal(size=90), layers + rng.normal(size=90)
    assert correlated(deep_x, deep_y, layers, types, resamples=200).estimate > 0.8
    partial = correlated(deep_x, deep_y, layers, types, beside_layer=True, resamples=500)
    assert abs(partial.estimate) < 0.35
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
        for values in (x, y, layers):
            column = np.empty(len(picked))
            for kind in np.unique(kinds[picked]):
                here = kinds[picked] == kind
                ranks = rankdata(values[picked][here])
                column[here] = (ranks - ranks.mean()) / len(ranks)
            columns.append(column)
        first, second, third = columns
        slopes = [np.linalg.lstsq(third[:, None], c, rcond=None)[0] for c in (first, second)]
        rest = [c - third * b for c, b in zip((first, second), slopes, strict=True)]
        resamples.append(rest[0] @ rest[1] / np.linalg.norm(rest[0]) / np.linalg.norm(rest[1]))
    found = correlated(x, y, layers, kinds, beside_layer=True, resamples=300)
    assert [found.low, found.high] == pytest.approx(np.percentile(resamples, [2.5, 97.5]))


@pytest.mark.slow
def test_permutation_p_is_uniform_without_an_effect_even_where_layers_share_noise():
    rng = np.random.default_rng(8)
    types, layers = np.repeat(np.arange(4), 20), np.tile(np.arange(20), 4)
    p = []
    for _ in range(200):
        shared = rng.normal(size=(2, 20))
        x, y = (s[layers] + rng.normal(size=80) for s in shared)
        p.append(correlated(x, y, layers, types, resamples=1, permutations=99).p)
    assert np.mean(np.array(p) < 0.05) < 0.1
