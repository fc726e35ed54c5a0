"""Entropy and information of Y = WX with Gaussian X, eqs. (4)-(7), and entropy from samples.

Everything is in nats. ``s`` are the singular values of W in any order, shape (r,); those at or
below ``rtol * max(s)`` count as zero, because for a rank-deficient W the output lives on a
k-dimensional subspace and only there it has a density. ``sigma_x`` and ``sigma_n`` are the
standard deviations of each input and of the noise added to each output. The estimate from samples
is what the closed forms are checked against.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import as_spectrum, nonzero_spectrum, positive_number

LOG_2PI_E = math.log(2 * math.pi * math.e)


def linear_entropy(s: ArrayLike, sigma_x: float = 1.0, rtol: float | None = None) -> float:
    """Eq. (6): h(Y) = (k/2) log(2πe σ_x²) + Σ log σᵢ.

    The paper writes m for k; they agree when W has full row rank. Otherwise this is the entropy
    of the density that Y has on the k-dimensional image of W.
    """
    positive = nonzero_spectrum(s, rtol)
    log_variance = 2 * math.log(positive_number(sigma_x, "sigma_x"))
    return positive.size / 2 * (LOG_2PI_E + log_variance) + float(np.log(positive).sum())


def mutual_information(s: ArrayLike, sigma_x: float = 1.0, sigma_n: float = 1.0) -> float:
    """I(X; WX + N) = 1/2 Σ log(1 + σ_x² σᵢ² / σ_n²) with N ~ N(0, σ_n² I).

    What eq. (7) becomes when the output is observed through noise; without noise it is infinite.
    """
    values = as_spectrum(s)
    gain = positive_number(sigma_x, "sigma_x") / positive_number(sigma_n, "sigma_n")
    return float((0.5 * np.log1p((gain * values) ** 2)).sum())


def knn_entropy(samples: ArrayLike, neighbours: int = 4) -> float:
    """Kozachenko-Leonenko estimate of the differential entropy of samples (N, d).

    Uses no density: with ε_i the distance of sample i to its k-th neighbour and c_d the volume
    of the unit ball, h = ψ(N) - ψ(k) + log c_d + d mean(log ε_i). Few neighbours lower the bias,
    many the variance.

    InputError at too few samples, not finite ones, or repeated ones, which no density gives.
    """
    points = np.asarray(samples, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        what = f"samples of shape {points.shape}, or NaN or infinite ones"
        raise InputError(what, "give finite samples as an array (N, d)")
    count, dimension = points.shape
    if not 1 <= neighbours < count:
        what = f"{neighbours} neighbours for {count} samples"
        raise InputError(what, "give more samples than neighbours >= 1")
    # The first column is the sample itself, at distance zero.
    distance = cKDTree(points).query(points, k=neighbours + 1)[0][:, -1]
    if (distance == 0).any():
        what = f"more than {neighbours} samples coincide: the distribution has an atom"
        raise InputError(what, "its entropy is minus infinity; add noise, and take the information")
    log_ball = dimension / 2 * math.log(math.pi) - gammaln(dimension / 2 + 1)
    spread = dimension * float(np.log(distance).mean())
    return float(digamma(count) - digamma(neighbours) + log_ball + spread)
