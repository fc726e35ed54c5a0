"""Matrices whose spectrum is known by design, and where rounding can put the smallest value."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import checked_matrix, nonzero_spectrum, positive_number


def random_orthogonal(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Orthogonal matrix (size, size), uniform over the orthogonal group (Mezzadri 2007)."""
    if size < 1:
        raise InputError(f"size {size} of an orthogonal matrix", "give at least 1")
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    # Without the signs, Q depends on the convention of the LAPACK at hand.
    return q * np.sign(np.diag(r))


def matrix_with_spectrum(
    s: ArrayLike, rows: int, cols: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """W = U diag(s) Vᵀ, (rows, cols), with random orthogonal U and V; values not given are zero."""
    values = np.asarray(s, dtype=np.float64)
    nonzero_spectrum(values)
    if values.size > min(rows, cols):
        what = f"{values.size} singular values for a {rows}×{cols} matrix"
        raise InputError(what, "give at most min(m, n)")
    left = random_orthogonal(rows, rng)[:, : values.size]
    return (left * values) @ random_orthogonal(cols, rng)[:, : values.size].T


def log_spaced_spectrum(kappa: float, k: int, energy: float) -> NDArray[np.float64]:
    """k singular values, evenly spaced in log, with σ₁/σ_k = κ and Σσᵢ² = C; descending.

    Raises:
        InputError: κ < 1, or κ > 1 with a single value.
    """
    if kappa < 1 or k < 1 or (k == 1 and kappa > 1):
        raise InputError(f"κ = {kappa} with {k} singular values", "give κ >= 1, and k >= 2 if > 1")
    shape = np.logspace(0.0, -math.log10(kappa), k)
    return shape * math.sqrt(positive_number(energy, "energy") / float(shape @ shape))


def smallest_value_interval(weight: ArrayLike, stored: ArrayLike) -> tuple[float, float]:
    """Where the smallest singular value of W (m, n) as ``stored`` can be, by Weyl's inequality.

    |σ_k(W + E) - σ_k(W)| <= ‖E‖₂ with E the rounding error, so the interval, cut at zero, has
    half-width ‖E‖₂.
    """
    exact, rounded = checked_matrix(weight), checked_matrix(stored, "stored weight")
    smallest = float(np.linalg.svd(exact, compute_uv=False)[-1])
    error = float(np.linalg.norm(rounded - exact, 2))
    return max(0.0, smallest - error), smallest + error
