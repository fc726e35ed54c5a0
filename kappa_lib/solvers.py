"""From a matrix to its singular values with a bound on the error of κ.

Two routes, both in float64 whatever the stored dtype (which widens exactly):

``gram``  a symmetric rank-k product of the shorter side, then its eigenvalues. Squaring doubles
          the exponent of κ, so a small σ carries a relative error near κ²·ε.
``svd``   LAPACK's divide-and-conquer SVD: a relative error near κ·ε, at several times the cost.

``auto`` takes the Gram route and keeps it while its own bound stays below ``TOLERANCE``.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import blas, eigh, svdvals

from kappa_lib.checks import EPS, as_matrix, rank_tolerance
from kappa_lib.errors import InputError

METHODS = ("auto", "gram", "svd")
TOLERANCE = 1e-6
# Rows widened to float64 at a time: 2²² numbers, 32 MiB.
BLOCK_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one matrix and how far κ can be from the truth.

    Attributes:
        values: (k,) float64, descending.
        shape: (rows, cols).
        method: the route that produced the values, with its LAPACK driver.
        kappa: σ₁ over the smallest non-zero singular value.
        kappa_error: bound on |κ - κ_true|/κ_true; infinite where the rank is undecidable.
        rank_deficiency: number of zero singular values.
    """

    values: np.ndarray
    shape: tuple[int, int]
    method: str
    kappa: float
    kappa_error: float
    rank_deficiency: int


def pick_device(device: str) -> str:
    """``auto`` is ``cuda`` where there is one, else ``cpu``; nothing else is accepted.

    Raises:
        InputError: any other device. MPS in particular returns wrong small singular values.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" or (device == "cuda" and torch.cuda.is_available()):
        return device
    raise InputError(f"device {device!r} can't be used for κ", "use auto, cpu, or cuda if present")


def decompose(
    weight: torch.Tensor | np.ndarray,
    method: str = "auto",
    *,
    device: str = "cpu",
    name: str = "weight",
    tolerance: float = TOLERANCE,
) -> Spectrum:
    """Singular values of ``weight`` with κ and its error bound.

    Args:
        weight: matrix (rows, cols), any floating-point dtype.
        method: one of ``METHODS``.
        device: ``cpu`` or ``cuda``.
        name: what error messages call the matrix.
        tolerance: ``auto`` leaves the Gram route where its bound on κ exceeds this.

    Raises:
        InputError: unknown method, or a matrix refused by :func:`kappa_lib.checks.as_matrix`.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown", f"use one of {', '.join(METHODS)}")
    matrix = as_matrix(weight, name)
    if method != "svd":
        spectrum = _by_gram(matrix)
        if method == "gram" or spectrum.kappa_error <= tolerance:
            return spectrum
    return _by_svd(matrix)


def gram(matrix: torch.Tensor) -> np.ndarray:
    """Lower triangle of the float64 Gram matrix of the shorter side, shape (k, k).

    Accumulated over blocks of the longer side, so only one block is held in float64.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    rows, k = tall.shape
    step = max(1, BLOCK_NUMBERS // k)
    product = np.zeros((k, k), order="F")
    for start in range(0, rows, step):
        block = tall[start : start + step].to("cpu", torch.float64).contiguous().numpy()
        # block is C-ordered (b, k): its transpose is the Fortran (k, b) that BLAS reads in place.
        product = blas.dsyrk(1.0, block.T, beta=1.0, c=product, lower=1, overwrite_c=1)
    return product


def _by_gram(matrix: torch.Tensor) -> Spectrum:
    shape = tuple(matrix.shape)
    product = gram(matrix)
    trace = float(np.trace(product))
    eigenvalues = eigh(
        product, lower=True, eigvals_only=True, overwrite_a=True, check_finite=False
    )[::-1]
    values = np.sqrt(np.clip(eigenvalues, 0.0, None))
    error = gram_error(shape, trace)
    return _with_bound(values, shape, "gram (dsyrk, dsyevr)", error / np.maximum(values, 1e-300))


def gram_error(shape: tuple[int, int], trace: float) -> float:
    """Bound on every eigenvalue's absolute error on the Gram route.

    An inner product of length n carries at most n·ε/2 of Σ|xy|; rounding errors of mean zero
    keep it near √n·ε/2 (Higham & Mary, SIAM J. Sci. Comput. 41, 2019). ‖W‖_F² (the trace)
    bounds the norm of |W||W|ᵀ, and the eigensolver's backward error is of the same form.
    """
    return 4.0 * math.sqrt(max(shape)) * EPS * trace


def _by_svd(matrix: torch.Tensor) -> Spectrum:
    shape = tuple(matrix.shape)
    values = svdvals(matrix.to("cpu", torch.float64).numpy(), check_finite=False)
    error = (4.0 + math.sqrt(max(shape))) * EPS * values[0]
    return _with_bound(values, shape, "svd (dgesdd)", np.full(len(values), error))


def _with_bound(
    values: np.ndarray, shape: tuple[int, int], method: str, errors: np.ndarray
) -> Spectrum:
    """Assemble κ and its bound from values and a bound on each one's absolute error, both (k,)."""
    threshold = rank_tolerance(shape) * values[0]
    zeros = int(np.count_nonzero(values <= threshold))
    last = len(values) - zeros - 1
    kappa = float(values[0] / values[last])
    # κ/κ_true = (σ̂₁/σ₁)(σ_k/σ̂_k), each factor within 1 ± its relative error.
    low, high = errors[last] / values[last], errors[0] / values[0]
    undecided = bool(np.any(np.abs(values - threshold) <= errors))
    bound = math.inf if undecided or high >= 1 else (1 + low) / (1 - high) - 1
    return Spectrum(values, shape, method, kappa, bound, zeros)
