import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.theory import entropy

FEW = settings(max_examples=30, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def gaussian(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape)


def spectrum(weight):
    return np.linalg.svd(weight, compute_uv=False)


def gaussian_entropy(covariance):
    """Eq. (3) as the paper writes it."""
    return np.linalg.slogdet(2 * math.pi * math.e * np.asarray(covariance))[1] / 2


@FEW
@given(SHAPES, SEEDS, st.floats(0.01, 100))
def test_linear_entropy_agrees_with_the_covariance_route(shape, seed, sigma_x):
    weight = gaussian(seed, sorted(shape))
    expected = gaussian_entropy(sigma_x**2 * weight @ weight.T)
    assert entropy.linear_entropy(spectrum(weight), sigma_x) == pytest.approx(expected, abs=1e-6)


@FEW
@given(SHAPES, SEEDS, st.floats(0.01, 100))
def test_entropy_is_scale_variant_and_otherwise_invariant(shape, seed, scale):
    weight = gaussian(seed, shape)
    turned = stats.ortho_group.rvs(shape[0], random_state=seed) @ weight
    base = entropy.linear_entropy(spectrum(weight))
    assert entropy.linear_entropy(spectrum(turned)) == pytest.approx(base, abs=1e-8)
    assert entropy.linear_entropy(spectrum(weight.T)) == pytest.approx(base, abs=1e-8)
    shifted = base + min(shape) * math.log(scale)
    assert entropy.linear_entropy(spectrum(scale * weight)) == pytest.approx(shifted, abs=1e-8)


def test_rank_deficient_entropy_lives_on_the_image():
    weight = np.vstack([np.diag([3.0, 0.5]), np.zeros((4, 2))])
    on_image = gaussian_entropy(np.diag([9.0, 0.25]))
    assert entropy.linear_entropy(spectrum(weight)) == pytest.approx(on_image)
    with_dust = entropy.linear_entropy([3.0, 0.5, 1e-17])
    assert with_dust == pytest.approx(on_image)
    assert entropy.linear_entropy([3.0, 0.5, 1e-17], rtol=0.0) != pytest.approx(on_image)


@FEW
@given(SHAPES, SEEDS, st.floats(0.1, 10), st.floats(0.1, 10))
def test_mutual_information_is_the_determinant_form(shape, seed, sigma_x, sigma_n):
    weight = gaussian(seed, shape)
    gram = (sigma_x / sigma_n) ** 2 * weight @ weight.T
    expected = np.linalg.slogdet(np.eye(shape[0]) + gram)[1] / 2
    actual = entropy.mutual_information(spectrum(weight), sigma_x, sigma_n)
    assert actual == pytest.approx(expected, rel=1e-9)


def test_zero_singular_values_carry_no_information():
    assert entropy.mutual_information([0.0, 2.0]) == entropy.mutual_information([2.0])
    assert entropy.mutual_information([0.0, 2.0]) == pytest.approx(0.5 * math.log(5))


@pytest.mark.parametrize(
    ("spectrum", "said"),
    [
        ([[1.0]], "shape"),
        ([], "shape"),
        ([1.0, np.nan], "NaN"),
        ([np.inf, 1.0], "infinite"),
        ([1.0, -1.0], "negative"),
        ([0.0, 0.0], "zero norm"),
    ],
)
def test_bad_spectra_are_named(spectrum, said):
    for function in (entropy.linear_entropy, entropy.mutual_information):
        with pytest.raises(InputError, match=said):
            function(spectrum)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
def test_bad_noise_and_input_scales_are_named(sigma):
    with pytest.raises(InputError, match="sigma_n"):
        entropy.mutual_information([1.0], 1.0, sigma)
    with pytest.raises(InputError, match="sigma_x"):
        entropy.mutual_information([1.0], sigma, 1.0)
    with pytest.raises(InputError, match="sigma_x"):
        entropy.linear_entropy([1.0], sigma)


@pytest.mark.parametrize("neighbours", [1, 4, 10])
@pytest.mark.parametrize(
    "law",
    [
        stats.multivariate_normal(cov=[[4.0]]),
        stats.multivariate_normal(cov=[[2.0, 0.5], [0.5, 0.5]]),
        stats.multivariate_normal(cov=np.diag([1.0, 2.0, 3.0])),
    ],
    ids=["1d", "2d", "3d"],
)
def test_knn_entropy_of_gaussians(law, neighbours):
    samples = law.rvs(10_000, random_state=2).reshape(10_000, -1)
    assert entropy.knn_entropy(samples, neighbours) == pytest.approx(law.entropy(), abs=0.05)


def test_knn_entropy_of_a_uniform_square_is_its_log_area():
    samples = np.random.default_rng(3).uniform(0, 5, size=(10_000, 2))
    assert entropy.knn_entropy(samples) == pytest.approx(np.log(25), abs=0.05)


def test_knn_entropy_refuses_atoms_and_too_few_samples():
    with pytest.raises(InputError, match="atom"):
        entropy.knn_entropy(np.maximum(np.random.default_rng(0).standard_normal((99, 1)), 0))
    with pytest.raises(InputError, match="neighbours"):
        entropy.knn_entropy(np.ones((3, 1)), neighbours=3)
    for samples in (np.ones(9), [[0.0], [np.nan], [1.0]]):
        with pytest.raises(InputError, match="samples of shape"):
            entropy.knn_entropy(samples, 1)
