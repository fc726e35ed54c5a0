"""Entropy and information of a linear unit Y = WX with Gaussian input: eqs. (2)-(7).

Everything is in nats. A spectrum ``s`` is the 1-D array of singular values of W in any order;
values at or below ``rtol * max(s)`` count as zero, because for a rank-deficient W the output
lives on a k-dimensional subspace and only there it has a density.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError

LOG_2PI_E = math.log(2 * math.pi * math.e)


def positive_number(value: float, name: str) -> float:
    """Return ``value`` as a float.

    Raises:
        InputError: if it is not a finite number above zero.
    """
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{name} is {value!r}", f"give a finite {name} above zero")
    return number


def checked_matrix(weight: ArrayLike, name: str = "weight") -> NDArray[np.float64]:
    """Return ``weight`` as a float64 matrix.

    Raises:
        InputError: if it is not 2-D, is empty, or holds NaN or infinity.
    """
    matrix = np.asarray(weight, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise InputError(
            f"{name} has shape {matrix.shape}", "give a 2-D array with at least one row and column"
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} holds NaN or infinite values", "remove or repair them first")
    return matrix


def nonzero_spectrum(s: ArrayLike, rtol: float | None = None) -> NDArray[np.float64]:
    """The k singular values that count as non-zero, descending.

    Args:
        s: singular values, shape (r,), any order, >= 0.
        rtol: values <= rtol * max(s) are zero; default r * eps of float64.

    Raises:
        InputError: not 1-D, empty, negative, NaN or infinite, or nothing but zeros.
    """
    values = np.asarray(s, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"the spectrum has shape {values.shape}", "give a non-empty 1-D array")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            "the spectrum holds NaN, infinite or negative values",
            "give singular values: finite and not below zero",
        )
    if values.max() == 0:
        raise InputError(
            "every singular value is zero (zero norm)", "the zero matrix has no entropy or κ"
        )
    tolerance = values.size * np.finfo(np.float64).eps if rtol is None else rtol
    return np.sort(values[values > tolerance * values.max()])[::-1]


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
