"""Measures against closed forms, numpy, and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.spectra import spectrum

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((12, 30))
ORTHOGONAL = np.linalg.qr(RNG.standard_normal((12, 12)))[0]


def test_kappa_comes_with_a_bound_on_its_error():
    found = spectrum.kappa(torch.from_numpy(WEIGHT))
    assert found.value == pytest.approx(np.linalg.cond(WEIGHT), rel=2 * found.error)
    assert 0 < found.error < 1e-6


TURNED = ORTHOGONAL @ np.diag([8.0] * 4 + [2.0] * 5 + [0.0] * 3) @ ORTHOGONAL.T


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (TURNED, 4.0),  # the smallest value that is not zero
        (torch.tensor([[1.0, 0.0], [0.0, 2.0**-10]], dtype=torch.bfloat16), 1024.0),
        (np.ones((1, 5)), 1.0),
    ],
    ids=["rank", "bf16", "vector"],
)
def test_kappa_of_a_matrix_is_what_it_has_to_be(weight, expected):
    assert spectrum.condition_number(weight) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("s", "log_volume", "effective_rank"),
    [
        ([2.0] * 5, 5 * math.log(2), 5),
        ([3.0, 2.0, 1.0], math.log(6), 2 ** (2 / 3) * 3**0.5),
        ([2.0, 2.0, 1e-17], math.log(4), 2),  # float64 can't tell the last from zero
    ],
)
def test_measures_in_closed_form(s, log_volume, effective_rank):
    assert spectrum.log_volume(np.array(s)) == pytest.approx(log_volume)
    assert spectrum.effective_rank(np.array(s)) == pytest.approx(effective_rank)


def test_log_volume_equals_slogdet():
    s = spectrum.singular_values(WEIGHT)
    expected = 0.5 * np.linalg.slogdet(WEIGHT @ WEIGHT.T).logabsdet
    assert spectrum.log_volume(s) == pytest.approx(expected, rel=1e-12)


def test_null_of_llama_3_shapes():
    assert spectrum.marchenko_pastur_kappa(1024, 4096) == pytest.approx(3.0)
    assert spectrum.marchenko_pastur_kappa(14336, 4096) == pytest.approx(3.296, abs=1e-3)
    assert spectrum.marchenko_pastur_kappa(4096, 4096) == pytest.approx(3.671 * 4096, rel=1e-3)
    assert spectrum.marchenko_pastur_kappa(7, 1) == 1.0
    with pytest.raises(InputError, match="0×4"):
        spectrum.marchenko_pastur_kappa(0, 4)


@pytest.mark.parametrize("shape", [(60, 60), (60, 61), (60, 64), (60, 80), (60, 240)])
def test_null_is_near_the_median_of_gaussian_matrices(shape):
    draws = np.random.default_rng(1).standard_normal((800, *shape))
    median = np.median(np.linalg.cond(draws))
    assert spectrum.marchenko_pastur_kappa(*shape) == pytest.approx(median, rel=0.25)


def factors(rows, cols, kappa):
    """Orthonormal U and V, and 40 singular values from 1 to 1/kappa, evenly on a log scale."""
    u, _ = np.linalg.qr(RNG.standard_normal((rows, 40)))
    v, _ = np.linalg.qr(RNG.standard_normal((cols, 40)))
    return u, np.geomspace(1, 1 / kappa, 40), v


def turned(basis, column, angle):
    """One column turned by ``angle`` towards the 20th, which is in no extreme subspace."""
    basis = basis.copy()
    one, other = basis[:, column].copy(), basis[:, 20].copy()
    basis[:, column] = math.cos(angle) * one + math.sin(angle) * other
    basis[:, 20] = math.cos(angle) * other - math.sin(angle) * one
    return basis


# Through the Gram matrix and, beyond κ = 1e5, a full SVD; the last shape is short of full rank.
@pytest.mark.parametrize("kappa", [50.0, 1e7])
@pytest.mark.parametrize("shape", [(40, 40), (90, 40), (40, 90), (60, 60)])
def test_spectral_change_finds_the_angle_that_was_planted(shape, kappa):
    u, s, v = factors(*shape, kappa)
    before = torch.from_numpy(u * s @ v.T)
    angles = {"top_left": 0.3, "top_right": 1.2, "bottom_left": 0.02, "bottom_right": 0.7}
    for place, angle in angles.items():
        column = 3 if place.startswith("top") else -2
        left = turned(u, column, angle) if "left" in place else u
        right = turned(v, column, angle) if "right" in place else v
        row = spectrum.spectral_change(before, torch.from_numpy(left * s @ right.T))
        found = {name: row[f"angle_{name}"] for name in angles}
        expected = {name: angle if name == place else 0.0 for name in angles}
        assert found == pytest.approx(expected, abs=1e-6)
        assert row["dlogkappa"] == pytest.approx(0, abs=1e-6)
        norm = np.linalg.norm(left * s @ right.T - u * s @ v.T) / np.linalg.norm(s)
        assert row["relative_change"] == pytest.approx(norm)


@pytest.mark.parametrize("kappa", [50.0, 1e7])
@pytest.mark.parametrize("shape", [(40, 40), (90, 40), (40, 90), (60, 60)])
def test_singular_vectors_put_a_matrix_together(shape, kappa):
    u, s, v = factors(*shape, kappa)
    weight = torch.from_numpy(u * s @ v.T)
    left, values, right = spectrum.singular_vectors(weight)
    np.testing.assert_allclose(values, s, rtol=1e-6)
    np.testing.assert_allclose(left * values @ right.T, weight, atol=1e-13)
    for found, planted in ((left, u), (right, v)):
        np.testing.assert_allclose(np.abs(found.numpy().T @ planted), np.eye(len(s)), atol=1e-6)
    ends = spectrum.singular_vectors(weight, 3)
    assert torch.equal(ends[1], values)
    for few, whole in ((ends[0], left), (ends[2], right)):
        outer = torch.cat([whole[:, :3], whole[:, -3:]], dim=1)
        torch.testing.assert_close(few, outer, rtol=0, atol=1e-12)


def test_spectral_change_of_a_scaled_spectrum():
    u, s, v = factors(60, 50, 100.0)
    after = s * np.r_[2.0, np.ones(38), 0.5]
    row = spectrum.spectral_change(torch.from_numpy(u * s @ v.T), torch.from_numpy(u * after @ v.T))
    assert row["kappa_before"] == pytest.approx(100)
    assert row["kappa_after"] == pytest.approx(400)
    assert row["dlogkappa"] == pytest.approx(math.log(4))
    assert row["sigma_max_after"] == pytest.approx(2)
    assert row["sigma_min_after"] == pytest.approx(0.005)
    for when, values in (("before", s), ("after", after)):
        assert row[f"effective_rank_{when}"] == pytest.approx(spectrum.effective_rank(values))
    assert max(row[name] for name in row if name.startswith("angle")) < 1e-6
    expected = np.linalg.norm(after - s) / np.linalg.norm(s)
    assert row["relative_change"] == pytest.approx(expected)


def test_spectral_change_of_an_untouched_matrix_is_nothing():
    weight = torch.from_numpy(WEIGHT).to(torch.bfloat16)
    row = spectrum.spectral_change(weight, weight.float())
    assert row["dlogkappa"] == row["relative_change"] == 0
    assert {row[name] for name in row if name.startswith("angle")} == {0.0}


def test_an_untouched_matrix_is_decomposed_once(monkeypatch):
    calls, real = [], spectrum.singular_vectors
    monkeypatch.setattr(spectrum, "singular_vectors", lambda *a: calls.append(a) or real(*a))
    weight = torch.from_numpy(WEIGHT)
    spectrum.spectral_change(weight, weight.clone())
    assert len(calls) == 1
    spectrum.spectral_change(weight, weight + 1e-3)
    assert len(calls) == 3


def test_spectral_change_refuses_another_matrix():
    with pytest.raises(InputError, match="12×30 and 30×12"):
        spectrum.spectral_change(torch.from_numpy(WEIGHT), torch.from_numpy(WEIGHT.T))


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_exponent_of_a_power_law_is_found(alpha):
    eigenvalues = stats.pareto.rvs(alpha - 1, size=3000, random_state=1)
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    assert spectrum.power_law_tail(s)[0] == pytest.approx(alpha, rel=0.1)


def test_exponent_is_scipys_for_some_start_of_the_tail_and_fits_best():
    s = np.sort(
        np.linalg.svd(np.random.default_rng(0).standard_normal((60, 200)), compute_uv=False)
    )[::-1]
    eigenvalues = np.sort(s**2)
    fits = []
    for start in eigenvalues[:-1]:
        tail = eigenvalues[eigenvalues >= start]
        shape = stats.pareto.fit(tail, floc=0, fscale=start)[0]
        fitted = stats.pareto.cdf(tail, shape, scale=start)
        fits.append((np.abs(fitted - np.arange(len(tail)) / len(tail)).max(), shape + 1))
    assert spectrum.power_law_tail(s)[0] == pytest.approx(min(fits)[1], rel=1e-6)
    assert spectrum.power_law_tail(7 * s)[0] == pytest.approx(min(fits)[1], rel=1e-6)


@pytest.mark.parametrize("s", [np.ones(50), np.arange(10, 0, -1.0)], ids=["flat", "short"])
def test_no_tail_has_no_exponent(s):
    assert np.isnan(spectrum.power_law_tail(s)[0])
