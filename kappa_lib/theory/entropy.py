"""Entropy and information of Y = WX with Gaussian X, eqs. (2)-(7), and estimates from samples.

Everything is in nats. ``s`` are the singular values of W in any order, shape (r,); those at or
below ``rtol * max(s)`` count as zero, because for a rank-deficient W the output lives on a
k-dimensional subspace and only there it has a density. ``sigma_x`` and ``sigma_n`` are the
standard deviations of each input and of the noise added to each output. The estimators are what
the closed forms are checked against.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.spatial import cKDTree
from scipy.special import digamma, entr, gammaln

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import as_spectrum, checked_matrix, nonzero_spectrum, positive_number

LOG_2PI_E = math.log(2 * math.pi * math.e)


def gaussian_entropy(covariance: ArrayLike) -> float:
    """Eq. (3): h(Y) = 1/2 log((2πe)^m det Σ) of Y ~ N(μ, Σ), Σ (m, m).

    InputError where Σ is not square, not symmetric or not positive definite.
    """
    sigma = checked_matrix(covariance, "covariance")
    if sigma.shape[0] != sigma.shape[1] or not np.allclose(sigma, sigma.T, rtol=1e-8, atol=0):
        what = f"the covariance of shape {sigma.shape} is not symmetric"
        raise InputError(what, "give a covariance matrix")
    try:
        factor = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError as error:
        raise InputError(
            "the covariance is not positive definite: no density in all m dimensions",
            "use linear_entropy, which works on the k-dimensional image",
        ) from error
    return sigma.shape[0] / 2 * LOG_2PI_E + float(np.log(np.diag(factor)).sum())


def linear_covariance(weight: ArrayLike, sigma_x: float = 1.0) -> NDArray[np.float64]:
    """Eq. (4): Σ_Y = σ_x² W Wᵀ, (m, m), of Y = WX with X ~ N(0, σ_x² I) and W (m, n)."""
    matrix = checked_matrix(weight)
    return positive_number(sigma_x, "sigma_x") ** 2 * (matrix @ matrix.T)


def log_det_gram(s: ArrayLike, rtol: float | None = None) -> float:
    """Eq. (5): log det(W Wᵀ) = Σ log σᵢ²; over the non-zero σᵢ, the log pseudo-determinant."""
    return 2 * float(np.log(nonzero_spectrum(s, rtol)).sum())


def linear_entropy(s: ArrayLike, sigma_x: float = 1.0, rtol: float | None = None) -> float:
    """Eq. (6): h(Y) = (k/2) log(2πe σ_x²) + Σ log σᵢ.

    The paper writes m for k; they agree when W has full row rank. Otherwise this is the entropy
    of the density that Y has on the k-dimensional image of W.
    """
    positive = nonzero_spectrum(s, rtol)
    log_variance = 2 * math.log(positive_number(sigma_x, "sigma_x"))
    return positive.size / 2 * (LOG_2PI_E + log_variance) + log_det_gram(s, rtol) / 2


def mutual_information(s: ArrayLike, sigma_x: float = 1.0, sigma_n: float = 1.0) -> float:
    """I(X; WX + N) = 1/2 Σ log(1 + σ_x² σᵢ² / σ_n²) with N ~ N(0, σ_n² I).

    What eq. (7) becomes when the output is observed through noise; without noise it is infinite.
    """
    values = as_spectrum(s)
    gain = positive_number(sigma_x, "sigma_x") / positive_number(sigma_n, "sigma_n")
    return float((0.5 * np.log1p((gain * values) ** 2)).sum())


def monte_carlo_entropy(log_density: ArrayLike) -> tuple[float, float]:
    """Eq. (2) as an average: h(X) = -E log p(X), with its standard error.

    ``log_density`` is log p at samples drawn from p itself, (N,), finite, N >= 2; else InputError.
    """
    values = np.asarray(log_density, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise InputError(
            f"log_density has shape {values.shape} or values that are not finite",
            "give at least two finite log densities, at samples of the same density",
        )
    return -float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def quadrature_entropy(density: Callable[[float], float], low: float, high: float) -> float:
    """Eq. (2) as an integral: -∫ p log p over [low, high], for a scalar X.

    InputError where p does not integrate to one within 1e-6.
    """
    mass = quad(density, low, high, limit=200)[0]
    if abs(mass - 1) > 1e-6:
        raise InputError(f"the density integrates to {mass:.6g} over [{low}, {high}]", "widen it")
    return quad(lambda x: entr(max(density(x), 0.0)), low, high, limit=200)[0]


def knn_entropy(samples: ArrayLike, neighbours: int = 4) -> float:
    """Kozachenko-Leonenko estimate of the differential entropy of samples (N, d).

    Uses no density: with ε_i the distance of sample i to its k-th neighbour and c_d the volume
    of the unit ball, h = ψ(N) - ψ(k) + log c_d + d mean(log ε_i). Few neighbours lower the bias,
    many the variance.

    Raises:
        InputError: too few samples, or repeated ones, which no density gives (their entropy
            is minus infinity).
    """
    points = checked_matrix(samples, "samples")
    count, dimension = points.shape
    if not 1 <= neighbours < count:
        what = f"{neighbours} neighbours for {count} samples"
        raise InputError(what, "give more samples than neighbours >= 1")
    # The first column is the sample itself, at distance zero.
    distance = cKDTree(points).query(points, k=neighbours + 1)[0][:, -1]
    if (distance == 0).any():
        raise InputError(
            f"more than {neighbours} samples coincide: the distribution has an atom",
            "differential entropy is minus infinity; use mutual information with noise instead",
        )
    log_ball = dimension / 2 * math.log(math.pi) - gammaln(dimension / 2 + 1)
    spread = dimension * float(np.log(distance).mean())
    return float(digamma(count) - digamma(neighbours) + log_ball + spread)


def image_coordinates(samples: ArrayLike, rank: int) -> NDArray[np.float64]:
    """Coordinates (N, rank) of samples (N, m) within the subspace of that rank that they span.

    Lengths and volumes of the subspace are kept, so an entropy of the result is the entropy on
    the image of a rank-deficient map.

    Raises:
        InputError: rank out of [1, min(N, m)], or the samples leave a subspace of that dimension.
    """
    points = checked_matrix(samples, "samples")
    if not 1 <= rank <= min(points.shape):
        raise InputError(f"rank {rank} for samples of shape {points.shape}", "give 1 <= rank <= m")
    _, spread, axes = np.linalg.svd(points, full_matrices=False)
    if rank < spread.size and spread[rank] > 1e-9 * spread[0]:
        raise InputError(f"the samples span more than {rank} dimensions", "give a larger rank")
    return points @ axes[:rank].T
