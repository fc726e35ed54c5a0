"""Entropy and information of a linear unit Y = WX with Gaussian input: eqs. (2)-(7).

Everything is in nats. A spectrum ``s`` is the 1-D array of singular values of W in any order;
values at or below ``rtol * max(s)`` count as zero, because for a rank-deficient W the output
lives on a k-dimensional subspace and only there it has a density.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import checked_matrix, nonzero_spectrum, positive_number

LOG_2PI_E = math.log(2 * math.pi * math.e)


def gaussian_entropy(covariance: ArrayLike) -> float:
    """Eq. (3): h(Y) = 1/2 log((2πe)^m det Σ) of Y ~ N(μ, Σ), in nats.

    Args:
        covariance: Σ, shape (m, m), symmetric and positive definite.

    Raises:
        InputError: if Σ is not square, not symmetric or not positive definite.
    """
    sigma = checked_matrix(covariance, "covariance")
    if sigma.shape[0] != sigma.shape[1] or not np.allclose(sigma, sigma.T, rtol=1e-8, atol=0):
        raise InputError(
            f"the covariance of shape {sigma.shape} is not symmetric", "give a covariance matrix"
        )
    try:
        factor = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError as error:
        raise InputError(
            "the covariance is not positive definite: no density in all m dimensions",
            "use linear_entropy, which works on the k-dimensional image",
        ) from error
    return sigma.shape[0] / 2 * LOG_2PI_E + float(np.log(np.diag(factor)).sum())


def linear_covariance(weight: ArrayLike, sigma_x: float = 1.0) -> NDArray[np.float64]:
    """Eq. (4): Σ_Y = σ_x² W Wᵀ, shape (m, m), of Y = WX with X ~ N(0, σ_x² I).

    Args:
        weight: W, shape (m, n).
        sigma_x: standard deviation of each input, > 0.
    """
    matrix = checked_matrix(weight)
    return positive_number(sigma_x, "sigma_x") ** 2 * (matrix @ matrix.T)


def log_det_gram(s: ArrayLike, rtol: float | None = None) -> float:
    """Eq. (5): log det(W Wᵀ) = Σ log σᵢ²; over the non-zero σᵢ, the log pseudo-determinant.

    Args:
        s: singular values, shape (r,).
        rtol: see :func:`nonzero_spectrum`.
    """
    return 2 * float(np.log(nonzero_spectrum(s, rtol)).sum())


def linear_entropy(s: ArrayLike, sigma_x: float = 1.0, rtol: float | None = None) -> float:
    """Eq. (6): h(Y) = (k/2) log(2πe σ_x²) + Σ log σᵢ, in nats.

    The paper writes m for k; they agree when W has full row rank. Otherwise this is the entropy
    of the density that Y has on the k-dimensional image of W.

    Args:
        s: singular values, shape (r,).
        sigma_x: standard deviation of each input, > 0.
        rtol: see :func:`nonzero_spectrum`.
    """
    positive = nonzero_spectrum(s, rtol)
    log_variance = 2 * math.log(positive_number(sigma_x, "sigma_x"))
    return positive.size / 2 * (LOG_2PI_E + log_variance) + log_det_gram(s, rtol) / 2


def information_by_direction(
    s: ArrayLike, sigma_x: float = 1.0, sigma_n: float = 1.0
) -> NDArray[np.float64]:
    """Information each singular direction carries through noise, shape (r,), in nats.

    The i-th entry is 1/2 log(1 + σ_x² σᵢ² / σ_n²), zero for σᵢ = 0, in the order of ``s``.

    Args:
        s: singular values, shape (r,).
        sigma_x: standard deviation of each input, > 0.
        sigma_n: standard deviation of the noise added to each output, > 0.
    """
    nonzero_spectrum(s)
    gain = positive_number(sigma_x, "sigma_x") / positive_number(sigma_n, "sigma_n")
    return 0.5 * np.log1p((gain * np.asarray(s, dtype=np.float64)) ** 2)


def mutual_information(s: ArrayLike, sigma_x: float = 1.0, sigma_n: float = 1.0) -> float:
    """I(X; WX + N) = 1/2 Σ log(1 + σ_x² σᵢ² / σ_n²) with N ~ N(0, σ_n² I), in nats.

    What eq. (7) becomes when the output is observed through noise; without noise it is infinite.

    Args:
        s: singular values, shape (r,).
        sigma_x: standard deviation of each input, > 0.
        sigma_n: standard deviation of the noise added to each output, > 0.
    """
    return float(information_by_direction(s, sigma_x, sigma_n).sum())
