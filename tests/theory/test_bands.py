import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.theory import bands
from kappa_lib.theory.entropy import mutual_information
from kappa_lib.theory.theorem import largest_log_volume

FEW = settings(max_examples=30, deadline=None, derandomize=True)
CASES = (st.floats(1, 1e4), st.floats(0.01, 100), st.integers(2, 30))


def volume(s):
    return float(np.log(s).sum())


@FEW
@given(*CASES, st.integers(0, 2**32 - 1))
def test_random_spectra_have_their_kappa_and_energy_and_stay_inside(kappa, energy, k, seed):
    rng = np.random.default_rng(seed)
    low, high = bands.log_volume_band(kappa, energy, k)
    noisy_low, noisy_high = bands.mutual_information_band(kappa, energy, k, 1.0, 0.5)
    for _ in range(20):
        s = bands.random_spectrum(kappa, energy, k, rng)
        assert len(s) == k
        assert s[0] / s[-1] == pytest.approx(kappa)
        assert float(s @ s) == pytest.approx(energy)
        assert low - 1e-7 <= volume(s) <= high + 1e-7
        assert noisy_low - 1e-7 <= mutual_information(s, 1.0, 0.5) <= noisy_high + 1e-7


@FEW
@given(*CASES)
def test_both_ends_are_attained(kappa, energy, k):
    low, high = bands.log_volume_band(kappa, energy, k)
    best = bands.largest_log_volume_spectrum(kappa, energy, k)
    assert best[0] / best[-1] == pytest.approx(kappa)
    assert float(best @ best) == pytest.approx(energy)
    assert (np.diff(best) <= 1e-9 * best[0]).all()
    assert volume(best) == pytest.approx(high, abs=1e-7)
    corners = [volume(bands.corner_spectrum(kappa, energy, k, n)) for n in range(1, k)]
    assert min(corners) == pytest.approx(low, abs=1e-7)


@pytest.mark.parametrize("kappa", [1.5, 10.0, 300.0])
@pytest.mark.parametrize("k", [3, 5])
def test_optimiser_finds_the_same_band(kappa, k):
    rng = np.random.default_rng(1)
    found = bands.search_band(volume, kappa, 7.0, k, rng)
    assert found == pytest.approx(bands.log_volume_band(kappa, 7.0, k), abs=1e-5)


@pytest.mark.parametrize("sigma_n", [0.05, 1.0, 20.0])
def test_optimiser_finds_the_same_information_band(sigma_n):
    rng = np.random.default_rng(2)
    found = bands.search_band(lambda s: mutual_information(s, 2.0, sigma_n), 30.0, 7.0, 4, rng)
    expected = bands.mutual_information_band(30.0, 7.0, 4, 2.0, sigma_n)
    assert found == pytest.approx(expected, abs=1e-5)


@FEW
@given(*CASES)
def test_band_meets_theorem_one_at_kappa_one_and_falls(kappa, energy, k):
    top = largest_log_volume(energy, k)
    assert bands.log_volume_band(1.0, energy, k) == pytest.approx((top, top), abs=1e-7)
    low, high = bands.log_volume_band(kappa, energy, k)
    assert top - high == pytest.approx(math.log((kappa + 1 / kappa) / 2), abs=1e-7)
    wider_low, wider_high = bands.log_volume_band(2 * kappa, energy, k)
    assert wider_high < high
    assert wider_low < low <= high + 1e-9


def test_two_values_leave_nothing_open():
    low, high = bands.log_volume_band(5.0, 3.0, 2)
    assert low == pytest.approx(high)
    low, high = bands.mutual_information_band(5.0, 3.0, 2)
    assert low == pytest.approx(high)


def test_noise_drowns_the_difference():
    low, high = bands.mutual_information_band(100.0, 1.0, 8, 1.0, 100.0)
    assert low == pytest.approx(0.5e-4, rel=1e-3)
    assert high == pytest.approx(0.5e-4, rel=1e-3)


@pytest.mark.parametrize("sigma_n", [0.01, 1.0, 10.0])
def test_free_maximum_of_information_is_at_kappa_one(sigma_n):
    start = np.random.default_rng(3).standard_normal(5)
    found = bands.free_maximum(lambda s: mutual_information(s, 1.0, sigma_n), start, 4.0)
    assert float(found @ found) == pytest.approx(4.0)
    assert found.max() / found.min() == pytest.approx(1, abs=1e-2)


def test_free_maximum_goes_where_the_quantity_is_largest():
    target = np.sqrt([0.5, 0.3, 0.2])
    found = bands.free_maximum(lambda s: -float(np.sum((s - target) ** 2)), np.zeros(3), 1.0)
    assert found == pytest.approx(target, abs=1e-4)


@pytest.mark.parametrize(("kappa", "k"), [(0.9, 3), (np.nan, 3), (np.inf, 3), (2.0, 1), (2.0, 0)])
def test_impossible_cases_are_named(kappa, k):
    with pytest.raises(InputError, match=r"κ =|rank k"):
        bands.log_volume_band(kappa, 1.0, k)
    with pytest.raises(InputError, match=r"κ =|rank k"):
        bands.mutual_information_band(kappa, 1.0, k)
    with pytest.raises(InputError, match="energy"):
        bands.log_volume_band(2.0, -1.0, 3)
    with pytest.raises(InputError, match="at the top"):
        bands.corner_spectrum(2.0, 1.0, 3, 3)
