"""Comparators against SciPy, a law that is known, and a direct transcription."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from kappa_lib.spectra import measures

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_exponent_of_a_power_law_is_found(alpha):
    eigenvalues = stats.pareto.rvs(alpha - 1, size=3000, random_state=1)
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    assert measures.tail_exponent(s) == pytest.approx(alpha, rel=0.1)


def test_exponent_is_scipys_for_some_start_of_the_tail_and_fits_best():
    s = np.sort(np.linalg.svd(RNG.standard_normal((60, 200)), compute_uv=False))[::-1]
    eigenvalues = np.sort(s**2)
    fits = []
    for start in eigenvalues[:-1]:
        tail = eigenvalues[eigenvalues >= start]
        shape = stats.pareto.fit(tail, floc=0, fscale=start)[0]
        fitted = stats.pareto.cdf(tail, shape, scale=start)
        fits.append((np.abs(fitted - np.arange(len(tail)) / len(tail)).max(), shape + 1))
    assert measures.tail_exponent(s) == pytest.approx(min(fits)[1], rel=1e-6)


def test_exponent_does_not_depend_on_scale():
    s = np.linalg.svd(RNG.standard_normal((50, 80)), compute_uv=False)
    assert measures.tail_exponent(7 * s) == pytest.approx(measures.tail_exponent(s))


@pytest.mark.parametrize("s", [np.ones(50), np.arange(10, 0, -1.0)], ids=["flat", "short"])
def test_no_tail_has_no_exponent(s):
    assert np.isnan(measures.tail_exponent(s))


@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_snr_follows_its_definition_step_by_step(shape):
    weight = torch.tensor(RNG.standard_normal(shape)) + 3 * torch.ones(shape)
    s = torch.linalg.svdvals(weight)
    quartiles = torch.quantile(s, torch.tensor([0.25, 0.75], dtype=s.dtype))
    noise_level = (quartiles[1] - quartiles[0]) / 1.349
    edge = noise_level * torch.sqrt((1 + torch.sqrt(torch.tensor(0.4, dtype=s.dtype))) ** 2)
    expected = s[s > edge].sum() / s[s <= edge].sum() / s[0] if (s <= edge).any() else np.inf
    assert measures.spectrum_snr(s.numpy(), shape) == pytest.approx(float(expected))


def test_correlation_sees_orders_and_types():
    measured = {name: [1.0, 2, 3, 30, 20, 10] for name in measures.MEASURES}
    measured["alpha"] = [3.0, 2, 1, 10, 20, 30]
    table = pd.DataFrame({"type": list("aaabbb"), **measured})
    assert measures.rank_correlation(table).loc["kappa", "frobenius"] == pytest.approx(1)
    assert measures.rank_correlation(table).loc["kappa", "alpha"] > 0
    within = measures.rank_correlation(table, within_type=True)
    assert within.loc["kappa", "alpha"] == pytest.approx(-1)
