"""Matrices whose spectrum is known or random by design, and what storing them does to it."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import checked_matrix, nonzero_spectrum, positive_number

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    """W = U diag(s) Vᵀ of shape (rows, cols) with random orthogonal U and V.

    Args:
        s: singular values, shape (r,), r <= min(rows, cols); the others are zero.
        rows: m.
        cols: n.
        rng: source of U and V.
    """
    values = np.asarray(s, dtype=np.float64)
    nonzero_spectrum(values)
    if values.size > min(rows, cols):
        raise InputError(
            f"{values.size} singular values for a {rows}×{cols} matrix", "give at most min(m, n)"
        )
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


def store_as(weight: ArrayLike, dtype: str) -> NDArray[np.float64]:
    """Round a matrix to a storage format and read it back in float64, shape kept.

    Args:
        weight: W, shape (m, n).
        dtype: ``float32``, ``float16``, ``bfloat16``, or ``q4_1``: blocks of 32 weights of a row
            as 4-bit codes between a float16 minimum and step, llama.cpp's format of that name.

    Raises:
        InputError: an unknown format, overflow, or for ``q4_1`` a row length that 32 does not
            divide.
    """
    matrix = checked_matrix(weight)
    if dtype == "q4_1":
        return _store_q4_1(matrix)
    if dtype not in FLOATS:
        raise InputError(f"unknown storage {dtype!r}", f"use one of {[*FLOATS, 'q4_1']}")
    stored = torch.from_numpy(matrix).to(FLOATS[dtype]).double().numpy()
    return checked_matrix(stored, f"the matrix as {dtype}")


def _store_q4_1(matrix: NDArray[np.float64], block: int = 32) -> NDArray[np.float64]:
    if matrix.shape[1] % block:
        raise InputError(
            f"q4_1 of rows of {matrix.shape[1]} weights",
            f"their number has to be a multiple of {block}",
        )
    blocks = matrix.reshape(-1, block)
    low = blocks.min(axis=1, keepdims=True)
    step = (blocks.max(axis=1, keepdims=True) - low) / 15
    codes = np.clip(np.round((blocks - low) / np.where(step > 0, step, 1.0)), 0, 15)
    as_half = [a.astype(np.float16).astype(np.float64) for a in (low, step)]
    return (as_half[0] + codes * as_half[1]).reshape(matrix.shape)


def smallest_value_interval(weight: ArrayLike, stored: ArrayLike) -> tuple[float, float]:
    """Where the smallest singular value of ``stored`` can be, by Weyl's inequality.

    |σ_k(W + E) - σ_k(W)| <= ‖E‖₂ with E the rounding error, so the interval has half-width ‖E‖₂.

    Args:
        weight: W, shape (m, n).
        stored: W as read back from storage, shape (m, n).

    Returns:
        Lower (>= 0) and upper end.
    """
    exact, rounded = checked_matrix(weight), checked_matrix(stored, "stored weight")
    smallest = float(np.linalg.svd(exact, compute_uv=False)[-1])
    error = float(np.linalg.norm(rounded - exact, 2))
    return max(0.0, smallest - error), smallest + error
