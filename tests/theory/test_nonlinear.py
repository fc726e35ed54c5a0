import math

import numpy as np
import pytest
import torch
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.theory import nonlinear
from kappa_lib.theory.entropy import knn_entropy, mutual_information

TORCH = {
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "leaky ReLU": lambda y: torch.nn.functional.leaky_relu(y, nonlinear.LEAK),
    "ReLU": torch.relu,
    "GELU": torch.nn.functional.gelu,
    "SiLU": torch.nn.functional.silu,
}
INVERTIBLE = ["tanh", "softplus", "leaky ReLU"]


@pytest.mark.parametrize("name", TORCH)
def test_functions_and_slopes_are_torchs(name):
    y = torch.linspace(-15, 15, 601, dtype=torch.float64, requires_grad=True)
    value = TORCH[name](y)
    (slope,) = torch.autograd.grad(value.sum(), y)
    ours = nonlinear.activation(name)
    at = y.detach().numpy()
    assert ours.function(at) == pytest.approx(value.detach().numpy(), abs=1e-12)
    keep = slope.abs().numpy() > 1e-9
    expected = slope.abs().log().numpy()[keep]
    assert ours.log_slope(at)[keep] == pytest.approx(expected, abs=1e-4)


def test_which_activations_contract():
    assert nonlinear.largest_slope("GELU") == pytest.approx(1.1289, abs=1e-4)
    assert nonlinear.largest_slope("SiLU") == pytest.approx(1.0998, abs=1e-4)
    for name in ("identity", "tanh", "softplus", "leaky ReLU", "ReLU"):
        assert nonlinear.largest_slope(name) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("name", [*INVERTIBLE, "GELU", "SiLU"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.0, 2.0), (1.5, 1.0)])
def test_mean_log_slope_is_that_of_samples(name, mean, std):
    y = mean + std * np.random.default_rng(0).standard_normal(400_000)
    logs = nonlinear.activation(name).log_slope(y)
    error = logs.std() / math.sqrt(logs.size)
    assert abs(nonlinear.mean_log_slope(name, mean, std) - logs.mean()) < 4 * error


def test_leaky_relu_loses_half_the_log_of_its_leak():
    assert nonlinear.mean_log_slope("leaky ReLU") == pytest.approx(math.log(nonlinear.LEAK) / 2)
    assert nonlinear.mean_log_slope("ReLU") == -math.inf


@pytest.mark.parametrize("name", INVERTIBLE)
def test_an_invertible_activation_adds_its_mean_log_slopes(name):
    covariance, mean = np.array([[1.0, 0.6], [0.6, 0.8]]), [0.3, -0.2]
    law = stats.multivariate_normal(mean, covariance)
    samples = law.rvs(20_000, random_state=1)
    estimate = knn_entropy(nonlinear.activation(name).function(samples))
    slopes = map(nonlinear.mean_log_slope, [name] * 2, mean, np.sqrt(np.diag(covariance)))
    assert law.entropy() + sum(slopes) == pytest.approx(estimate, abs=0.06)


@pytest.mark.parametrize(("std", "sigma_n"), [(1.0, 0.1), (1.0, 1.0), (0.3, 2.0), (5.0, 0.5)])
def test_noisy_information_of_the_identity_is_shannons(std, sigma_n):
    expected = mutual_information([1.0], std, sigma_n)
    assert nonlinear.noisy_information("identity", sigma_n, 0.7, std) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("name", [*INVERTIBLE, "ReLU"])
@pytest.mark.parametrize("sigma_n", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("mean", [-1.0, 0.0, 2.0])
def test_contractive_activations_lose_information(name, sigma_n, mean):
    after = nonlinear.noisy_information(name, sigma_n, mean)
    assert 0 < after < mutual_information([1.0], 1.0, sigma_n)


def test_gelu_can_gain_information_but_not_more_than_its_slope_allows():
    before = mutual_information([1.0], 0.4, 0.3)
    after = nonlinear.noisy_information("GELU", 0.3, 2.0, 0.4)
    allowed = mutual_information([nonlinear.largest_slope("GELU")], 0.4, 0.3)
    assert before + 0.01 < after < allowed


def test_noisy_information_agrees_with_neighbours():
    rng = np.random.default_rng(3)
    y, noise = rng.standard_normal((2, 40_000, 1))
    out = np.maximum(y, 0) + 0.5 * noise
    estimate = knn_entropy(out) - knn_entropy(0.5 * noise)
    assert nonlinear.noisy_information("ReLU", 0.5) == pytest.approx(estimate, abs=0.03)


def test_mixture_entropy_limits():
    one = nonlinear.mixture_entropy([3.0], 0.5)
    assert one == pytest.approx(stats.norm(scale=0.5).entropy(), abs=1e-6)
    apart = nonlinear.mixture_entropy([-50.0, 50.0], 0.5, [0.25, 0.75])
    assert apart - one == pytest.approx(stats.entropy([0.25, 0.75]), abs=1e-6)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="unknown activation 'sine'"):
        nonlinear.largest_slope("sine")
    with pytest.raises(InputError, match="std"):
        nonlinear.mean_log_slope("tanh", 0.0, -1.0)
    with pytest.raises(InputError, match="sigma_n"):
        nonlinear.noisy_information("tanh", 0.0)
    with pytest.raises(InputError, match="at least"):
        nonlinear.noisy_information("tanh", 0.001)
