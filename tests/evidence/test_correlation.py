import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from kappa_lib.errors import InputError
from kappa_lib.evidence.correlation import within_types


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
