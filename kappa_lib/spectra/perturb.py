"""A model with the anisotropy taken out of some of its matrices: κ = 1 at the same norm."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kappa_lib.errors import InputError
from kappa_lib.spectra.kappa_table import type_of
from kappa_lib.theory.checks import as_matrix


def flat_weight(weight: Tensor) -> Tensor:
    """√(C/k) U Vᵀ: the singular vectors and the norm of W = U diag(σ) Vᵀ, all σ equal.

    The spectrum of Theorem 1's maximum, eq. (12), on the axes that training chose.

    Args:
        weight: (rows, cols), full rank; k = min(rows, cols), C = ‖W‖_F².

    Returns:
        A tensor of the same shape, dtype and device.
    """
    matrix = as_matrix(weight)
    left, s, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    level = math.sqrt(float(s.square().mean()))
    return (level * left @ right).to(matrix.dtype)


def shaken_weight(weight: Tensor, generator: torch.Generator) -> Tensor:
    """W plus Gaussian noise as far from W, in Frobenius norm, as :func:`flat_weight` is.

    The control for flattening: a change of the same size that is not about the spectrum.

    Args:
        weight: (rows, cols), full rank.
        generator: source of the noise, on the CPU.

    Returns:
        A tensor of the same shape, dtype and device.
    """
    matrix = as_matrix(weight)
    noise = torch.randn(matrix.shape, generator=generator, dtype=torch.float64).to(matrix.device)
    distance = (flat_weight(matrix) - matrix).double().norm()
    return (matrix.double() + noise * (distance / noise.norm())).to(matrix.dtype)


@contextmanager
def changed(llm: nn.Module, kind: str, change: Callable[[Tensor], Tensor]) -> Iterator[int]:
    """Within the block, every matrix of one module type is replaced by ``change`` of it.

    Args:
        llm: the model; changed in place and restored at the end.
        kind: module type, ``v_proj`` for instance.
        change: weight -> weight of the same shape.

    Yields:
        How many matrices were changed.

    Raises:
        InputError: no matrix of that type.
    """
    matrices = [
        parameter
        for name, parameter in llm.named_parameters()
        if parameter.ndim == 2 and type_of(name) == kind
    ]
    if not matrices:
        raise InputError(f"the model has no matrix of type {kind!r}", "see the κ table's types")
    kept = [matrix.detach().clone() for matrix in matrices]
    try:
        for matrix in matrices:
            matrix.data.copy_(change(matrix.detach()))
        yield len(matrices)
    finally:
        for matrix, original in zip(matrices, kept, strict=True):
            matrix.data.copy_(original)
