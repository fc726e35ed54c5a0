"""Entropy from samples: what the closed forms of eqs. (3) and (6) are checked against."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import checked_matrix


def monte_carlo_entropy(log_density: ArrayLike) -> tuple[float, float]:
    """Eq. (2) as an average: h(X) = -E log p(X), with its standard error, in nats.

    Args:
        log_density: log p at samples drawn from p itself, shape (N,), N >= 2.

    Raises:
        InputError: fewer than two samples, or a sample where the density is zero or not a number.
    """
    values = np.asarray(log_density, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise InputError(
            f"log_density has shape {values.shape} or values that are not finite",
            "give at least two finite log densities, at samples of the same density",
        )
    return -float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def quadrature_entropy(density: Callable[[float], float], low: float, high: float) -> float:
    """Eq. (2) as an integral: -∫ p log p over [low, high], for a scalar X, in nats.

    Args:
        density: p(x), integrating to one over the interval.
        low: lower end.
        high: upper end.

    Raises:
        InputError: if p does not integrate to one within 1e-6.
    """
    mass = quad(density, low, high, limit=200)[0]
    if abs(mass - 1) > 1e-6:
        raise InputError(f"the density integrates to {mass:.6g} over [{low}, {high}]", "widen it")

    def surprise(x: float) -> float:
        p = density(x)
        return -p * math.log(p) if p > 0 else 0.0

    return quad(surprise, low, high, limit=200)[0]


def knn_entropy(samples: ArrayLike, neighbours: int = 4) -> float:
    """Kozachenko-Leonenko estimate of the differential entropy, in nats.

    Uses no density: with ε_i the distance of sample i to its k-th neighbour and c_d the volume
    of the unit ball, h = ψ(N) - ψ(k) + log c_d + d mean(log ε_i).

    Args:
        samples: shape (N, d), N > neighbours, drawn from a density in d dimensions.
        neighbours: k >= 1; small k lowers the bias, large k the variance.

    Raises:
        InputError: too few samples, or repeated ones, which no density gives (their entropy
            is minus infinity).
    """
    points = checked_matrix(samples, "samples")
    count, dimension = points.shape
    if not 1 <= neighbours < count:
        raise InputError(
            f"{neighbours} neighbours for {count} samples", "give more samples than neighbours >= 1"
        )
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
    """Coordinates of samples within the ``rank``-dimensional subspace that they span.

    Lengths and volumes of the subspace are kept, so an entropy of the result is the entropy on
    the image of a rank-deficient map.

    Args:
        samples: shape (N, m).
        rank: dimension of the subspace, 1 <= rank <= min(N, m).

    Returns:
        Array of shape (N, rank).

    Raises:
        InputError: rank out of range, or the samples leave a subspace of that dimension.
    """
    points = checked_matrix(samples, "samples")
    if not 1 <= rank <= min(points.shape):
        raise InputError(f"rank {rank} for samples of shape {points.shape}", "give 1 <= rank <= m")
    _, spread, axes = np.linalg.svd(points, full_matrices=False)
    if rank < spread.size and spread[rank] > 1e-9 * spread[0]:
        raise InputError(f"the samples span more than {rank} dimensions", "give a larger rank")
    return points @ axes[:rank].T
