import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.theory import theorem
from kappa_lib.theory.entropy import linear_entropy, mutual_information

FEW = settings(max_examples=30, deadline=None, derandomize=True)
CASES = (st.floats(1, 1e4), st.floats(0.01, 100), st.integers(2, 30))
SPECTRA = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


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
    missing = theorem.largest_linear_entropy(energy, len(s)) - linear_entropy(s, rtol=0.0)
    assert theorem.am_gm_gap(s) == pytest.approx(missing, abs=1e-6)


def test_gap_vanishes_only_at_equality():
    assert theorem.am_gm_gap([3.0] * 7) == 0
    assert theorem.am_gm_gap([3.0] * 6 + [3.1]) > 1e-4
    assert theorem.am_gm_gap([1.0, 3.0]) == pytest.approx(math.log(5) - math.log(3))


@FEW
@given(SPECTRA, st.floats(-2, 2), st.floats(0.1, 10))
def test_gradient_is_the_lagrangians_finite_difference(s, multiplier, energy):
    s = np.sort(np.clip(s, 0.1, 10))[::-1] + np.linspace(0.5, 0, len(s))
    for i, slope in enumerate(theorem.lagrangian_gradient(s, multiplier)):
        step = np.zeros(len(s))
        step[i] = 1e-5
        up = theorem.lagrangian(s + step, multiplier, energy)
        down = theorem.lagrangian(s - step, multiplier, energy)
        assert (up - down) / 2e-5 == pytest.approx(slope, abs=1e-4)


@FEW
@given(st.floats(0.01, 100), st.integers(1, 50))
def test_stationary_spectrum_meets_the_constraint_and_the_gradient(energy, k):
    s = theorem.stationary_spectrum(energy, k)
    assert float(s @ s) == pytest.approx(energy)
    multiplier = theorem.stationary_multiplier(energy, k)
    assert theorem.lagrangian_gradient(s, multiplier) == pytest.approx(0, abs=1e-9 * k)
    # On the constraint the bracket of eq. (10) vanishes.
    value = theorem.lagrangian(s, multiplier, energy)
    assert value == pytest.approx(theorem.largest_log_volume(energy, k), abs=1e-9 * k)


@pytest.mark.parametrize("start", [[1.0, 2.0], [1e-3, 1.0, 5.0], np.geomspace(1, 1e-4, 12)])
def test_ascent_from_anywhere_ends_at_kappa_one(start):
    path = theorem.ascend_log_volume(start, energy=6.0)
    assert np.square(path).sum(axis=1) == pytest.approx(6.0)
    assert path[-1].max() / path[-1].min() == pytest.approx(1, abs=1e-6)
    assert (np.diff(np.log(path).sum(axis=1)) > -1e-12).all()


def test_no_random_matrix_beats_the_bound():
    rng, largest = np.random.default_rng(0), theorem.largest_linear_entropy(10.0, 4, 0.5)
    for _ in range(200):
        weight = rng.standard_normal((4, 7))
        weight *= math.sqrt(10) / np.linalg.norm(weight)
        assert linear_entropy(np.linalg.svd(weight, compute_uv=False), 0.5) < largest


@FEW
@given(SPECTRA, st.floats(0.01, 100), st.floats(0.01, 100))
def test_with_energy_keeps_ratios_and_meets_the_constraint(s, energy, sigma_x):
    scaled = theorem.with_energy(s, energy)
    assert float(scaled @ scaled) == pytest.approx(energy)
    assert scaled / scaled[0] == pytest.approx(np.sort(s)[::-1] / max(s))
    flat = theorem.stationary_spectrum(energy, len(s))
    largest = theorem.largest_linear_entropy(energy, len(s), sigma_x)
    assert largest == pytest.approx(linear_entropy(flat, sigma_x), abs=1e-9 * len(s))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="energy"):
        theorem.largest_log_volume(0.0, 3)
    for k in (0, -1, 2.5):
        with pytest.raises(InputError, match="rank k"):
            theorem.stationary_spectrum(1.0, k)
    with pytest.raises(InputError, match="zero norm"):
        theorem.with_energy([0.0, 0.0], 1.0)
    with pytest.raises(InputError, match="zero singular value"):
        theorem.ascend_log_volume([1.0, 0.0], 1.0)


def volume(s):
    return float(np.log(s).sum())


@FEW
@given(*CASES, st.integers(0, 2**32 - 1))
def test_random_spectra_have_their_kappa_and_energy_and_stay_inside(kappa, energy, k, seed):
    rng = np.random.default_rng(seed)
    low, high = theorem.log_volume_band(kappa, energy, k)
    noisy_low, noisy_high = theorem.mutual_information_band(kappa, energy, k, 1.0, 0.5)
    for _ in range(20):
        s = theorem.random_spectrum(kappa, energy, k, rng)
        assert len(s) == k
        assert s[0] / s[-1] == pytest.approx(kappa)
        assert float(s @ s) == pytest.approx(energy)
        assert low - 1e-7 <= volume(s) <= high + 1e-7
        assert noisy_low - 1e-7 <= mutual_information(s, 1.0, 0.5) <= noisy_high + 1e-7


@FEW
@given(*CASES)
def test_both_ends_are_attained(kappa, energy, k):
    low, high = theorem.log_volume_band(kappa, energy, k)
    best = theorem.largest_log_volume_spectrum(kappa, energy, k)
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
    found = theorem.search_band(volume, kappa, 7.0, k, rng)
    assert found == pytest.approx(theorem.log_volume_band(kappa, 7.0, k), abs=1e-5)


@pytest.mark.parametrize("sigma_n", [0.05, 1.0, 20.0])
def test_optimiser_finds_the_same_information_band(sigma_n):
    rng = np.random.default_rng(2)
    found = theorem.search_band(lambda s: mutual_information(s, 2.0, sigma_n), 30.0, 7.0, 4, rng)
    expected = theorem.mutual_information_band(30.0, 7.0, 4, 2.0, sigma_n)
    assert found == pytest.approx(expected, abs=1e-5)


@FEW
@given(*CASES)
def test_band_meets_theorem_one_at_kappa_one_and_falls(kappa, energy, k):
    top = theorem.largest_log_volume(energy, k)
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


def test_noise_drowns_the_difference():
    low, high = theorem.mutual_information_band(100.0, 1.0, 8, 1.0, 100.0)
    assert low == pytest.approx(0.5e-4, rel=1e-3)
    assert high == pytest.approx(0.5e-4, rel=1e-3)


@pytest.mark.parametrize("sigma_n", [0.01, 1.0, 10.0])
def test_free_maximum_of_information_is_at_kappa_one(sigma_n):
    start = np.random.default_rng(3).standard_normal(5)
    found = theorem.free_maximum(lambda s: mutual_information(s, 1.0, sigma_n), start, 4.0)
    assert float(found @ found) == pytest.approx(4.0)
    assert found.max() / found.min() == pytest.approx(1, abs=1e-2)


def test_free_maximum_goes_where_the_quantity_is_largest():
    target = np.sqrt([0.5, 0.3, 0.2])
    found = theorem.free_maximum(lambda s: -float(np.sum((s - target) ** 2)), np.zeros(3), 1.0)
    assert found == pytest.approx(target, abs=1e-4)


@pytest.mark.parametrize(("kappa", "k"), [(0.9, 3), (np.nan, 3), (np.inf, 3), (2.0, 1), (2.0, 0)])
def test_impossible_cases_are_named(kappa, k):
    with pytest.raises(InputError, match=r"κ =|rank k"):
        theorem.log_volume_band(kappa, 1.0, k)
    with pytest.raises(InputError, match=r"κ =|rank k"):
        theorem.mutual_information_band(kappa, 1.0, k)
    with pytest.raises(InputError, match="energy"):
        theorem.log_volume_band(2.0, -1.0, 3)
    with pytest.raises(InputError, match="at the top"):
        theorem.corner_spectrum(2.0, 1.0, 3, 3)
