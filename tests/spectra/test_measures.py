"""Comparators against SciPy, a law that is known, and a direct transcription."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.spectra import kappa_table, spectrum
from kappa_lib.theory.theorem import am_gm_gap

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_exponent_of_a_power_law_is_found(alpha):
    eigenvalues = stats.pareto.rvs(alpha - 1, size=3000, random_state=1)
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    assert spectrum.power_law_tail(s)[0] == pytest.approx(alpha, rel=0.1)


def test_exponent_is_scipys_for_some_start_of_the_tail_and_fits_best():
    s = np.sort(np.linalg.svd(RNG.standard_normal((60, 200)), compute_uv=False))[::-1]
    eigenvalues = np.sort(s**2)
    fits = []
    for start in eigenvalues[:-1]:
        tail = eigenvalues[eigenvalues >= start]
        shape = stats.pareto.fit(tail, floc=0, fscale=start)[0]
        fitted = stats.pareto.cdf(tail, shape, scale=start)
        fits.append((np.abs(fitted - np.arange(len(tail)) / len(tail)).max(), shape + 1))
    assert spectrum.power_law_tail(s)[0] == pytest.approx(min(fits)[1], rel=1e-6)


def test_exponent_does_not_depend_on_scale():
    s = np.linalg.svd(RNG.standard_normal((50, 80)), compute_uv=False)
    assert spectrum.power_law_tail(7 * s)[0] == pytest.approx(spectrum.power_law_tail(s)[0])


@pytest.mark.parametrize("s", [np.ones(50), np.arange(10, 0, -1.0)], ids=["flat", "short"])
def test_no_tail_has_no_exponent(s):
    assert np.isnan(spectrum.power_law_tail(s)[0])


@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_snr_follows_its_definition_step_by_step(shape):
    weight = torch.tensor(RNG.standard_normal(shape)) + 3 * torch.ones(shape)
    s = torch.linalg.svdvals(weight)
    quartiles = torch.quantile(s, torch.tensor([0.25, 0.75], dtype=s.dtype))
    noise_level = (quartiles[1] - quartiles[0]) / 1.349
    edge = noise_level * torch.sqrt((1 + torch.sqrt(torch.tensor(0.4, dtype=s.dtype))) ** 2)
    expected = s[s > edge].sum() / s[s <= edge].sum() / s[0] if (s <= edge).any() else np.inf
    assert spectrum.spectrum_snr(s.numpy(), shape) == pytest.approx(float(expected))


def test_correlation_sees_orders_and_types():
    measured = {name: [1.0, 2, 3, 30, 20, 10] for name in kappa_table.MEASURES}
    measured["alpha"] = [3.0, 2, 1, 10, 20, 30]
    table = pd.DataFrame({"type": list("aaabbb"), **measured})
    assert kappa_table.rank_correlation(table).loc["kappa", "frobenius"] == pytest.approx(1)
    assert kappa_table.rank_correlation(table).loc["kappa", "alpha"] > 0
    within = kappa_table.rank_correlation(table, within_type=True)
    assert within.loc["kappa", "alpha"] == pytest.approx(-1)


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


def test_correlation_is_perfect_where_kappa_is_all_that_differs():
    spectra = [(kind, np.geomspace(1, 1 / k, 8)) for kind in "ab" for k in (2, 5, 20, 90)]
    assert kappa_table.kappa_against_volume(table_of(spectra)) == pytest.approx((1, 1))


def test_correlation_across_types_can_hide_its_absence_within():
    # Two types with κ of one size each; inside a type, the spectra of larger κ lose less volume.
    spectra = []
    for kind, level in [("a", 3.0), ("b", 300.0)]:
        for step in range(10):
            kappa = level * (1 + step / 1000)
            spectra.append((kind, np.array([1.0, 1 / kappa, *[kappa ** (step / 10 - 1)] * 6])))
    overall, within = kappa_table.kappa_against_volume(table_of(spectra))
    assert within < -0.9
    assert overall > 0.4


def test_too_small_a_table_is_named():
    one = table_of([("a", np.array([2.0, 1.0]))])
    with pytest.raises(InputError, match="of 1 row"):
        kappa_table.explained_by_type(one)
    with pytest.raises(InputError, match="three tensors"):
        kappa_table.kappa_against_volume(pd.concat([one, one.assign(type="b")]))
