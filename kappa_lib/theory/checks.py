"""What matrices, spectra and numbers must be, and which singular values count as zero."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError

EPS = float(np.finfo(np.float64).eps)


def matrix_form(weight: torch.Tensor | np.ndarray, name: str = "weight") -> torch.Tensor:
    """Return ``weight`` as a detached 2-D tensor after checking all but its values.

    Raises:
        InputError: not a 2-D array of real floating-point numbers, or empty.
    """
    tensor = torch.as_tensor(weight).detach()
    if tensor.ndim != 2:
        raise InputError(
            f"{name}: has shape {tuple(tensor.shape)}; a condition number needs a matrix",
            "pass a 2-D tensor; slice 3-D expert tensors, reshape convolutions to out × rest",
        )
    if tensor.numel() == 0:
        raise InputError(f"{name}: empty, shape {tuple(tensor.shape)}", "check the checkpoint")
    if not tensor.is_floating_point():
        raise InputError(
            f"{name}: dtype {tensor.dtype} is not real floating point",
            "dequantise packed weights first; integer codes have no meaningful spectrum",
        )
    return tensor


def as_matrix(weight: torch.Tensor | np.ndarray, name: str = "weight") -> torch.Tensor:
    """Return ``weight`` as a detached 2-D tensor after checking that κ is defined for it.

    The dtype and the device stay: widening to float64 is exact and left to the solver.

    Raises:
        InputError: see :func:`matrix_form`; or holding NaN or infinity, or all zero; the
            message names ``name``.
    """
    tensor = matrix_form(weight, name)
    lowest, highest = (float(x) for x in torch.aminmax(tensor))
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise InputError(
            f"{name}: holds NaN or infinite values",
            "the checkpoint or the training run that wrote it is broken; fetch it again",
        )
    if lowest == highest == 0.0:
        raise InputError(f"{name}: all zero, so κ is undefined", "exclude this tensor")
    return tensor


def rank_tolerance(shape: tuple[int, ...], rtol: float | None = None) -> float:
    """Singular values at or below this multiple of σ₁ count as zero.

    The default is the largest dimension times ε of float64 whatever the stored dtype: a stored
    bf16 weight is an exact number to us, and ε of bf16 would call every square projection
    rank-deficient. Of a spectrum alone, the number of its values is the dimension.
    """
    return max(shape) * EPS if rtol is None else rtol


def as_spectrum(s: ArrayLike, *, descending: bool = False) -> NDArray[np.float64]:
    """Return singular values as a float64 array (r,), in the order given.

    Raises:
        InputError: not 1-D, empty, negative, NaN or infinite, nothing but zeros, or in another
            than the wanted order.
    """
    values = np.asarray(s, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"the spectrum has shape {values.shape}", "give a non-empty 1-D array")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            "no spectrum: it holds NaN, infinite or negative values",
            "give singular values: finite and not below zero",
        )
    if values.max() == 0:
        raise InputError(
            "no spectrum: every singular value is zero (zero norm)",
            "the zero matrix has no entropy or κ",
        )
    # Values that should be equal may differ in their last bits, in either order.
    if descending and (np.diff(values) > rank_tolerance(values.shape) * values.max()).any():
        raise InputError(
            "no spectrum: its values ascend", "give singular values in descending order"
        )
    return values


def nonzero_spectrum(s: ArrayLike, rtol: float | None = None) -> NDArray[np.float64]:
    """The k singular values that count as non-zero, descending.

    Args:
        s: singular values, shape (r,), any order, >= 0.
        rtol: see :func:`rank_tolerance`.

    Raises:
        InputError: see :func:`as_spectrum`.
    """
    values = as_spectrum(s)
    return np.sort(values[values > rank_tolerance(values.shape, rtol) * values.max()])[::-1]


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


def checked_rank(k: int) -> int:
    """Return k.

    Raises:
        InputError: unless k is a whole number >= 1.
    """
    if int(k) != k or k < 1:
        raise InputError(f"rank k is {k!r}", "give a whole number of at least 1")
    return int(k)
