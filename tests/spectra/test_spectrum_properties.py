"""κ and the measures over shapes and condition numbers, against SciPy, and on wrong input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import svdvals

from kappa_lib.errors import InputError
from kappa_lib.spectra import spectrum
from kappa_lib.theory.checks import EPS
from kappa_lib.theory.theorem import am_gm_gap, log_spaced_spectrum, matrix_with_spectrum

FEW = settings(max_examples=30, deadline=None, derandomize=True)
SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 200))
EXPONENTS = st.floats(0, 12)
SEEDS = st.integers(0, 2**32 - 1)
MEASURES = [spectrum.log_volume, spectrum.effective_rank]


def matrix(shape, exponent, seed):
    """A matrix with κ = 10^exponent, or 1 where there is a single singular value."""
    k = min(shape)
    s = log_spaced_spectrum(10**exponent if k > 1 else 1.0, k, energy=7.0)
    return s, matrix_with_spectrum(s, *shape, np.random.default_rng(seed))


@FEW
@given(SHAPES, EXPONENTS, SEEDS)
def test_kappa_agrees_with_scipy_and_with_the_matrix_that_was_built(shape, exponent, seed):
    built, weight = matrix(shape, exponent, seed)
    # A rounding error of ε‖W‖ in the smallest σ is an error of κ·ε in κ.
    tolerance = 1e-6 + 1e3 * 10**exponent * EPS
    kappa = spectrum.condition_number(weight)
    reference = svdvals(weight)
    assert kappa == pytest.approx(reference[0] / reference[-1], rel=tolerance)
    assert kappa == pytest.approx(built[0] / built[-1], rel=tolerance)


@FEW
@given(SHAPES, st.floats(0, 6), SEEDS, st.floats(1e-3, 1e3))
def test_scale_moves_only_what_has_a_scale(shape, exponent, seed, scale):
    _, weight = matrix(shape, exponent, seed)
    before, after = (spectrum.singular_values(w) for w in (weight, scale * weight))
    shift = min(shape) * np.log(scale)
    expected = spectrum.log_volume(before) + shift
    assert spectrum.log_volume(after) == pytest.approx(expected, abs=1e-5 * (1 + abs(expected)))
    for measure in (spectrum.effective_rank, am_gm_gap):
        assert measure(after) == pytest.approx(measure(before), rel=1e-5, abs=1e-5)


@FEW
@given(st.integers(2, 60), st.floats(0, 6), st.floats(1.1, 10))
def test_a_wider_spectrum_has_less_of_everything(k, exponent, factor):
    narrow = log_spaced_spectrum(10**exponent, k, 1.0)
    wide = log_spaced_spectrum(factor * 10**exponent, k, 1.0)
    for measure in MEASURES:
        assert measure(wide) < measure(narrow)
    assert am_gm_gap(wide) > am_gm_gap(narrow)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "shape"),
        ([[1.0]], "shape"),
        ([np.nan, 1.0], "finite"),
        ([np.inf, 1.0], "finite"),
        ([0.0, 0.0], "no spectrum"),
        ([1.0, -1.0], "no spectrum"),
        ([1.0, 2.0], "descending"),
    ],
)
def test_what_is_no_spectrum_is_named(measure, values, said):
    with pytest.raises(InputError, match=said):
        measure(np.array(values))
