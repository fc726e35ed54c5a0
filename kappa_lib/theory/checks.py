"""What a matrix must be before it has a condition number."""

import math

import numpy as np
import torch

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


def rank_tolerance(shape: tuple[int, int], rtol: float | None = None) -> float:
    """Singular values at or below this multiple of σ₁ count as zero.

    The default is max(rows, cols) · ε of float64 whatever the stored dtype: a stored bf16 weight
    is an exact number to us, and ε of bf16 would call every square projection rank-deficient.
    """
    return max(shape) * EPS if rtol is None else rtol
