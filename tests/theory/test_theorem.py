import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.theory import theorem
from kappa_lib.theory.entropy import linear_entropy

FEW = settings(max_examples=30, deadline=None, derandomize=True)
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
