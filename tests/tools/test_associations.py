import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from tools.associations import associations, beside_layer, permutation_p


def made(x, y, layers, types):
    return pd.DataFrame({"x": x, "y": y, "layer": layers, "type": types})


def test_every_pair_has_its_row_and_holm_is_over_the_predictors():
    rng = np.random.default_rng(0)
    types, layers = np.repeat(["q_proj", "v_proj", "up_proj"], 12), np.tile(np.arange(12), 3)
    kappa = np.repeat([1000.0, 1.0, 10.0], 12) * np.exp(rng.standard_normal(36))
    # Between types the deficit goes the other way.
    deficit = kappa / np.repeat([1e6, 1.0, 100.0], 12)
    table = pd.DataFrame({"kappa": kappa, "deficit": deficit, "layer": layers, "type": types})
    table["kl_redrawn"] = 1 / deficit
    found = associations(
        table, ["kappa", "deficit", "layer"], ["deficit", "kl_redrawn"], resamples=60
    )
    assert len(found) == 5
    assert (found["p_holm"] >= found["p"]).all()
    row = found.set_index(["outcome", "predictor"]).loc[("deficit", "kappa")]
    assert row["within"] == row["beside_layer"] == pytest.approx(1)
    assert row["pooled"] == pytest.approx(spearmanr(kappa, deficit).statistic)
    assert row["pooled"] < 0
    assert row["p"] < 0.001


def test_the_layer_is_taken_out():
    rng = np.random.default_rng(6)
    types, layers = np.repeat(["q", "k", "v"], 30), np.tile(np.arange(30), 3)
    x, y = (layers + rng.normal(size=90) for _ in range(2))
    assert spearmanr(x, y).statistic > 0.8
    assert abs(beside_layer(made(x, y, layers, types), "x", "y")) < 0.35


@pytest.mark.slow
def test_permutation_p_is_uniform_without_an_effect_even_where_layers_share_noise():
    rng = np.random.default_rng(8)
    types, layers = np.repeat(["q", "k", "v", "o"], 20), np.tile(np.arange(20), 4)
    p = []
    for _ in range(200):
        shared = rng.normal(size=(2, 20))
        x, y = (s[layers] + rng.normal(size=80) for s in shared)
        draws = np.random.default_rng(0)
        p.append(permutation_p(made(x, y, layers, types), "x", "y", draws, permutations=99))
    assert np.mean(np.array(p) < 0.05) < 0.1
