"""What matrices, spectra and numbers must be, and which singular values count as zero."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError

EPS = float(np.finfo(np.float64).eps)


def matrix_form(weight: torch.Tensor | np.ndarray, name: str = "weight") -> torch.Tensor:
    """Return ``weight`` as a detached 2-D tensor; InputError, where it is no such array of real
    floating-point numbers, or empty. Its values are not looked at."""
    try:
        tensor = torch.as_tensor(weight).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"{name}: {type(weight).__name__} is no array of numbers"
        raise InputError(what, "give a tensor or a NumPy array") from error
    if tensor.ndim != 2:
        what = f"{name}: has shape {tuple(tensor.shape)}; a condition number needs a matrix"
        raise InputError(what, "slice 3-D expert tensors, reshape convolutions to out × rest")
    if tensor.numel() == 0:
        raise InputError(f"{name}: empty, shape {tuple(tensor.shape)}", "check the checkpoint")
    if not tensor.is_floating_point():
        what = f"{name}: dtype {tensor.dtype} is not real floating point"
        raise InputError(what, "dequantise packed weights first; codes have no meaningful spectrum")
    return tensor


def as_matrix(weight: torch.Tensor | np.ndarray, name: str = "weight") -> torch.Tensor:
    """Return ``weight`` as a detached 2-D tensor of its own dtype, if κ is defined for it.

    Raises:
        InputError: see :func:`matrix_form`; or NaN or infinity in it, or all zero.
    """
    tensor = matrix_form(weight, name)
    # Of one-byte floats torch knows no extremes.
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    lowest, highest = (float(x) for x in torch.aminmax(wide))
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        remedy = "the checkpoint or the training run that wrote it is broken; fetch it again"
        raise InputError(f"{name}: holds NaN or infinite values", remedy)
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
        raise InputError("no spectrum: NaN, infinite or negative", "give singular values")
    if values.max() == 0:
        what = "no spectrum: all zero (zero norm)"
        raise InputError(what, "the zero matrix has no entropy or κ")
    # Values that should be equal may differ in their last bits, in either order.
    if descending and (np.diff(values) > rank_tolerance(values.shape) * values.max()).any():
        raise InputError("no spectrum: it ascends", "give singular values in descending order")
    return values


def nonzero_spectrum(s: ArrayLike, rtol: float | None = None) -> NDArray[np.float64]:
    """The k of r singular values in any order that are not zero by ``rank_tolerance``, descending;
    errors as :func:`as_spectrum`."""
    values = as_spectrum(s)
    return np.sort(values[values > rank_tolerance(values.shape, rtol) * values.max()])[::-1]


def positive_number(value: float, name: str) -> float:
    """Return ``value`` as a float; InputError unless it is finite and above zero."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{name} is {value!r}", f"give a finite {name} above zero")
    return number
