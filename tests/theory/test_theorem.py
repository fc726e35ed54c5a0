import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from kappa_lib.errors import InputError
from kappa_lib.theory import theorem
from kappa_lib.theory.entropy import linear_entropy, mutual_information

FEW = settings(max_examples=30, deadline=None, derandomize=True)
CASES = (st.floats(1, 1e4), st.floats(0.01, 100), st.integers(2, 30))
SPECTRA = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


def largest(energy, k):
    """Theorem 1's value, as the paper writes it."""
    return k / 2 * math.log(2 * math.pi * math.e * energy / k)


def search_band(quantity, kappa, energy, k, rng):
    """Both ends by L-BFGS-B, which moves the inner values and knows no corners or levels."""
    bounds, ends = [(0, 1)] * (k - 2), []
    for sign in (1, -1):
        runs = [
            minimize(
                lambda inner, sign=sign: (
                    sign * quantity(theorem.spectrum_between(inner, kappa, energy))
                ),
                start,
                bounds=bounds,
            ).fun
            for start in rng.uniform(size=(20, k - 2))
        ]
        ends.append(sign * min(runs))
    return tuple(ends)


@FEW
@given(SPECTRA, st.floats(0.01, 100))
def test_gap_is_never_negative_and_ignores_scale(s, scale):
    gap = theorem.am_gm_gap(s)
    assert gap >= 0
    assert theorem.am_gm_gap(scale * np.array(s)) == pytest.approx(gap, abs=1e-9)


@FEW
@given(SPECTRA)
def test_gap_is_the_distance_to_the_theorems_value(s):
    energy = float(np.square(s).sum())
    missing = largest(energy, len(s)) - linear_entropy(s, rtol=0.0)
    assert theorem.am_gm_gap(s) == pytest.approx(missing, abs=1e-6)


def test_gap_vanishes_only_at_equality():
    assert theorem.am_gm_gap([3.0] * 7) == 0
    assert theorem.am_gm_gap([3.0] * 6 + [3.1]) > 1e-4
    assert theorem.am_gm_gap([1.0, 3.0]) == pytest.approx(math.log(5) - math.log(3))


@FEW
@given(SPECTRA, st.floats(0.01, 100))
def test_with_energy_keeps_ratios_and_meets_the_constraint(s, energy):
    scaled = theorem.with_energy(s, energy)
    assert float(scaled @ scaled) == pytest.approx(energy)
    assert scaled / scaled[0] == pytest.approx(np.sort(s)[::-1] / max(s))


def volume(s):
    return float(np.log(s).sum())


@FEW
@given(*CASES, st.integers(0, 2**32 - 1))
def test_random_spectra_have_their_kappa_and_energy_and_stay_inside(kappa, energy, k, seed):
    rng = np.random.default_rng(seed)
    low, high = theorem.log_volume_band(kappa, energy, k)
    noisy_low, noisy_high = theorem.mutual_information_band(kappa, energy, k, 1.0, 0.5)
    for _ in range(20):
        heights = rng.beta(*rng.lognormal(0, 1.5, 2), size=k - 2)
        s = theorem.spectrum_between(heights, kappa, energy)
        assert len(s) == k
        assert s[0] / s[-1] == pytest.approx(kappa)
        assert float(s @ s) == pytest.approx(energy)
        assert low - 1e-7 <= volume(s) <= high + 1e-7
        assert noisy_low - 1e-7 <= mutual_information(s, 1.0, 0.5) <= noisy_high + 1e-7


@FEW
@given(*CASES)
def test_both_ends_are_attained(kappa, energy, k):
    low, high = theorem.log_volume_band(kappa, energy, k)
    smallest = 2 * energy / (k * (1 + kappa**2))
    best = np.sqrt([kappa**2 * smallest, *[energy / k] * (k - 2), smallest])
    assert best[0] / best[-1] == pytest.approx(kappa)
    assert float(best @ best) == pytest.approx(energy)
    assert (np.diff(best) <= 1e-9 * best[0]).all()
    assert volume(best) == pytest.approx(high, abs=1e-7)
    corners = [volume(theorem.corner_spectrum(kappa, energy, k, n)) for n in range(1, k)]
    assert min(corners) == pytest.approx(low, abs=1e-7)


@pytest.mark.parametrize("kappa", [1.5, 10.0, 300.0])
@pytest.mark.parametrize("k", [3, 5])
def test_optimiser_finds_the_same_band(kappa, k):
    rng = np.random.default_rng(1)
    found = search_band(volume, kappa, 7.0, k, rng)
    assert found == pytest.approx(theorem.log_volume_band(kappa, 7.0, k), abs=1e-5)


@pytest.mark.parametrize("sigma_n", [0.05, 1.0, 20.0])
def test_optimiser_finds_the_same_information_band(sigma_n):
    rng = np.random.default_rng(2)
    found = search_band(lambda s: mutual_information(s, 2.0, sigma_n), 30.0, 7.0, 4, rng)
    expected = theorem.mutual_information_band(30.0, 7.0, 4, 2.0, sigma_n)
    assert found == pytest.approx(expected, abs=1e-5)


@FEW
@given(*CASES)
def test_band_meets_theorem_one_at_kappa_one_and_falls(kappa, energy, k):
    top = k / 2 * math.log(energy / k)
    assert theorem.log_volume_band(1.0, energy, k) == pytest.approx((top, top), abs=1e-7)
    low, high = theorem.log_volume_band(kappa, energy, k)
    assert top - high == pytest.approx(math.log((kappa + 1 / kappa) / 2), abs=1e-7)
    wider_low, wider_high = theorem.log_volume_band(2 * kappa, energy, k)
    assert wider_high < high
    assert wider_low < low <= high + 1e-9


def test_two_values_leave_nothing_open():
    low, high = theorem.log_volume_band(5.0, 3.0, 2)
    assert low == pytest.approx(high)
    low, high = theorem.mutual_information_band(5.0, 3.0, 2)
    assert low == pytest.approx(high)


@pytest.mark.parametrize(("kappa", "k"), [(0.9, 3), (np.nan, 3), (np.inf, 3), (2.0, 1), (2.0, 0)])
def test_impossible_cases_are_named(kappa, k):
    for band in (theorem.log_volume_band, theorem.mutual_information_band):
        with pytest.raises(InputError, match=r"κ =|rank k"):
            band(kappa, 1.0, k)
    with pytest.raises(InputError, match="energy"):
        theorem.log_volume_band(2.0, -1.0, 3)
    with pytest.raises(InputError, match="at the top"):
        theorem.corner_spectrum(2.0, 1.0, 3, 3)
    with pytest.raises(InputError, match="3 singular values"):
        theorem.matrix_with_spectrum([1.0, 1.0, 1.0], 2, 5, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(3, 3), (3, 8), (8, 3)])
def test_matrix_has_the_spectrum_it_was_given(shape):
    weight = theorem.matrix_with_spectrum([5.0, 1e-3], *shape, np.random.default_rng(0))
    assert weight.shape == shape
    assert np.linalg.svd(weight, compute_uv=False) == pytest.approx([5, 1e-3, 0], abs=1e-12)


def test_log_spaced_spectrum_has_its_kappa_energy_and_spacing():
    s = theorem.log_spaced_spectrum(1e4, 9, 2.0)
    assert s[0] / s[-1] == pytest.approx(1e4)
    assert float(s @ s) == pytest.approx(2.0)
    assert s[:-1] / s[1:] == pytest.approx(10 ** np.full(8, 0.5))
