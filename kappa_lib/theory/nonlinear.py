"""Element-wise nonlinearities after a linear unit: the paper's Remark 2 (v3), in nats.

For an invertible φ, h(φ(Y)) = h(Y) + Σ E log|φ'(Yᵢ)|: each output adds the mean logarithm of its
slope, which is never positive when |φ'| <= 1. For a φ that is not invertible, differential
entropy is the wrong quantity, and information through noise takes its place. ``name`` is a key of
``ACTIVATIONS``; ``mean`` (a bias) and ``std`` > 0 are those of a Gaussian Y.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import entr, log_expit, log_ndtr, ndtr
from scipy.stats import norm

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import positive_number
from kappa_lib.theory.entropy import LOG_2PI_E

Array = NDArray[np.float64]
LEAK = 0.1


@dataclass(frozen=True)
class Activation:
    """An element-wise function with what Remark 2 needs to know of it."""

    function: Callable[[Array], Array]  # φ, array to array of the same shape
    log_slope: Callable[[Array], Array]  # log|φ'| likewise; -inf where the slope vanishes
    # Where log|φ'| is not smooth (for GELU and SiLU the zero of φ'), for the quadrature.
    breaks: tuple[float, ...] = ()


def _log_slope_tanh(y: Array) -> Array:
    # log(1 - tanh²) = -2 log cosh, written so that it neither overflows nor cancels.
    return -2 * (np.abs(y) + np.log1p(np.exp(-2 * np.abs(y))) - math.log(2))


def _log_slope_gelu(y: Array) -> Array:
    y = np.asarray(y, dtype=np.float64)
    left, right = np.minimum(y, 0.0), np.maximum(y, 0.0)
    # Left of zero Φ(y) and yφ(y) nearly cancel: take φ(y) out and keep Mills' ratio Φ/φ.
    mills = np.exp(log_ndtr(left) - norm.logpdf(left))
    with np.errstate(divide="ignore"):
        below = norm.logpdf(left) + np.log(np.abs(mills + left))
    return np.where(y < 0, below, np.log(ndtr(right) + right * norm.pdf(right)))


def _log_slope_silu(y: Array) -> Array:
    with np.errstate(divide="ignore"):
        return log_expit(y) + np.log(np.abs(1 + y * np.exp(log_expit(-y))))


def _relu(leak: float) -> Activation:
    with np.errstate(divide="ignore"):
        low = np.log(leak)
    return Activation(
        lambda y: np.where(y > 0, y, leak * y),
        lambda y: np.where(np.asarray(y) > 0, 0.0, low),
        (0.0,),
    )


ACTIVATIONS = {
    "identity": Activation(lambda y: y, np.zeros_like),
    "tanh": Activation(np.tanh, _log_slope_tanh),
    "softplus": Activation(lambda y: np.logaddexp(0.0, y), log_expit),
    "leaky ReLU": _relu(LEAK),
    "ReLU": _relu(0.0),
    "GELU": Activation(lambda y: y * ndtr(y), _log_slope_gelu, (-0.7517915247, 0.0)),
    "SiLU": Activation(lambda y: y * np.exp(log_expit(y)), _log_slope_silu, (-1.2784645428,)),
}


def activation(name: str) -> Activation:
    """The activation of that name; InputError where there is none."""
    if name not in ACTIVATIONS:
        raise InputError(f"unknown activation {name!r}", f"use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def largest_slope(name: str) -> float:
    """sup |φ'|, the Lipschitz constant, on a grid of step 1e-4 over [-20, 20].

    Contractive means at most 1: true of tanh, softplus, ReLU and leaky ReLU, not of GELU (near
    √2) and SiLU (near 2.4).
    """
    return float(np.exp(activation(name).log_slope(np.linspace(-20, 20, 400_001)).max()))


def mean_log_slope(name: str, mean: float = 0.0, std: float = 1.0) -> float:
    """E log|φ'(Y)| of Y ~ N(mean, std²), by adaptive quadrature; -inf for ReLU."""
    chosen, scale = activation(name), positive_number(std, "std")
    if name == "ReLU":
        return -math.inf

    def weighted(z: float) -> float:
        return float(chosen.log_slope(np.float64(mean + scale * z))) * norm.pdf(z)

    breaks = [(b - mean) / scale for b in chosen.breaks]
    ends = [-12.0, *sorted(b for b in breaks if -12 < b < 12), 12.0]
    return sum(quad(weighted, low, high, limit=200)[0] for low, high in itertools.pairwise(ends))


def mixture_entropy(centres: ArrayLike, sigma_n: float, weights: ArrayLike = 1.0) -> float:
    """h(S + N), N ~ N(0, σ_n²), on a grid: S is on the centres (J,) with probability ∝ weights."""
    points, noise = np.asarray(centres, dtype=np.float64), positive_number(sigma_n, "sigma_n")
    share = weights * np.ones(points.size)
    share = share / share.sum()
    grid = np.arange(points.min() - 8 * noise, points.max() + 8 * noise, noise / 12)
    parts = np.array_split(grid, max(1, grid.size * points.size // 4_000_000))
    kernels = (np.exp(-0.5 * ((part - points[:, None]) / noise) ** 2) for part in parts)
    density = np.concatenate([share @ kernel for kernel in kernels])
    density /= noise * math.sqrt(2 * math.pi)
    return float(entr(density).sum() * noise / 12)


def noisy_information(name: str, sigma_n: float, mean: float = 0.0, std: float = 1.0) -> float:
    """I(Y; φ(Y) + N) of a scalar Y, N ~ N(0, σ_n²) added after the nonlinearity.

    Finite for every φ. If φ is contractive it is at most I(Y; Y + N): Gaussian noise turns
    "closer together" into "less entropy" (Aishwarya and Li, arXiv 2409.03664). InputError at
    σ_n < 0.02 std, for which the grid is too coarse.
    """
    scale, noise = positive_number(std, "std"), positive_number(sigma_n, "sigma_n")
    if noise < 0.02 * scale:
        raise InputError(f"sigma_n is {noise} at std {scale}", "give at least 0.02 std")
    z = np.linspace(-8, 8, 3201)
    centres = activation(name).function(mean + scale * z)
    return mixture_entropy(centres, noise, norm.pdf(z)) - 0.5 * LOG_2PI_E - math.log(noise)
