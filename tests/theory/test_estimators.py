import numpy as np
import pytest
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.theory import estimators


def test_monte_carlo_entropy_brackets_scipys():
    law = stats.gamma(a=2.5)
    samples = law.rvs(20_000, random_state=1)
    estimate, error = estimators.monte_carlo_entropy(law.logpdf(samples))
    assert abs(estimate - law.entropy()) < 4 * error
    assert 0 < error < 0.02


def test_quadrature_entropy_is_scipys():
    law = stats.norm(scale=3)
    assert estimators.quadrature_entropy(law.pdf, -40, 40) == pytest.approx(law.entropy())
    with pytest.raises(InputError, match=r"integrates to 0\.68"):
        estimators.quadrature_entropy(law.pdf, -3, 3)


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
    assert estimators.knn_entropy(samples, neighbours) == pytest.approx(law.entropy(), abs=0.05)


def test_knn_entropy_of_a_uniform_square_is_its_log_area():
    samples = np.random.default_rng(3).uniform(0, 5, size=(10_000, 2))
    assert estimators.knn_entropy(samples) == pytest.approx(np.log(25), abs=0.05)


def test_knn_entropy_refuses_atoms_and_too_few_samples():
    with pytest.raises(InputError, match="atom"):
        estimators.knn_entropy(np.maximum(np.random.default_rng(0).standard_normal((99, 1)), 0))
    with pytest.raises(InputError, match="neighbours"):
        estimators.knn_entropy(np.ones((3, 1)), neighbours=3)


@pytest.mark.parametrize("values", [[1.0], [1.0, -np.inf], [[1.0, 2.0]]])
def test_monte_carlo_entropy_refuses_bad_densities(values):
    with pytest.raises(InputError, match="log_density"):
        estimators.monte_carlo_entropy(values)


def test_image_coordinates_keep_lengths_and_check_the_rank():
    rng = np.random.default_rng(4)
    samples = rng.standard_normal((50, 2)) @ rng.standard_normal((2, 5))
    flat = estimators.image_coordinates(samples, 2)
    assert flat.shape == (50, 2)
    assert np.linalg.norm(flat, axis=1) == pytest.approx(np.linalg.norm(samples, axis=1))
    with pytest.raises(InputError, match="more than 1"):
        estimators.image_coordinates(samples, 1)
    with pytest.raises(InputError, match="rank 6"):
        estimators.image_coordinates(samples, 6)
