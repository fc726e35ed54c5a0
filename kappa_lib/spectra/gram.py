"""A matrix's Gram product WᵀW, and products with W itself, in float64, a block of rows at a time.

So a bf16 matrix is never held twice. Operands start at 64-byte boundaries (torch's own memory
does): on others MKL may round differently, and a row of the κ table could change its last bits. On
a GPU the matrix goes over once, as stored.
"""

import math
from collections.abc import Iterator
from functools import cached_property, reduce

import numpy as np
import torch
from scipy.linalg.blas import dsyrk

from kappa_lib.theory.checks import EPS

# Numbers widened to float64 at a time: 2²² are 32 MiB; on a GPU a GiB, chosen, not tuned.
BLOCK_NUMBERS = 1 << 22
BLOCK_NUMBERS_CUDA = 1 << 27
# Matrices with no more singular values than this are measured side by side, a thread each: the
# larger ones would take too much memory, and keep several threads busy by themselves.
SIDE_BY_SIDE = 2048


class GramOperator:
    """WᵀW of a matrix W with at least as many rows as columns, and products with W and Wᵀ.

    Args:
        matrix: W or its transpose, any floating-point dtype.
        device: where products are computed, ``cpu`` or ``cuda``.

    Attributes:
        shape: of the given matrix.
        rows: of W.
        k: columns of W: the number of singular values.
    """

    def __init__(self, matrix: torch.Tensor, device: str = "cpu") -> None:
        self._matrix, self.shape = matrix.to(device), tuple(matrix.shape)
        self._is_tall = self.shape[0] >= self.shape[1]
        self.rows, self.k = self.shape if self._is_tall else self.shape[::-1]
        self.device = device
        self._block = BLOCK_NUMBERS_CUDA if device == "cuda" else BLOCK_NUMBERS
        # SciPy's BLAS reads one half of what is symmetric, where torch's reads both, but lets no
        # other thread of Python work meanwhile.
        self.by_scipy = device == "cpu" and self.k > SIDE_BY_SIDE
        # A matrix of a single block is widened once.
        self._kept: torch.Tensor | None = None

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Slices of W's rows, and the numbers there in float64 as (b, k)."""
        if self._kept is not None:
            yield slice(0, self.rows), self._kept
            return
        step = max(1, self._block // self.k)
        for start in range(0, self.rows, step):
            rows = slice(start, min(start + step, self.rows))
            block = self._matrix[rows] if self._is_tall else self._matrix[:, rows]
            wide = block.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
            wide = wide if self._is_tall else wide.T
            if step >= self.rows:
                self._kept = wide
            yield rows, wide

    @cached_property
    def gram(self) -> torch.Tensor:
        """WᵀW, (k, k), of which only the lower triangle is to be read."""
        blocks = (block for _, block in self._blocks())
        if self.device == "cuda":
            return reduce(torch.add, (block.T @ block for block in blocks))
        # Of a matrix times itself numpy and SciPy compute one half, torch both.
        arrays = (block.numpy() for block in blocks)
        if not self.by_scipy:
            with np.errstate(all="ignore"):  # an overflow shows in the trace
                return torch.from_numpy(reduce(np.add, (array.T @ array for array in arrays)))
        upper = np.zeros((self.k, self.k), order="F")
        for array in arrays:  # whichever of its two forms lies in memory as Fortran has it
            columns = array.flags.f_contiguous
            dsyrk(1.0, array if columns else array.T, 1.0, upper, trans=columns, overwrite_c=True)
        return torch.from_numpy(upper.T)

    @cached_property
    def trace(self) -> float:
        """‖W‖_F²: that of the Gram matrix."""
        return float(self.gram.trace())

    @property
    def gram_error(self) -> float:
        """Bound on the absolute error of every eigenvalue that is computed from the Gram matrix.

        The trace bounds the norm of |W|ᵀ|W| that multiplies the inner products' error. The backward
        errors of the Cholesky factorisation and of the eigensolver have the same form.
        """
        return product_error(self.rows) * self.trace

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """W V: (k, q) → (rows, q)."""
        return torch.cat([block @ vectors for _, block in self._blocks()])

    def apply_transposed(self, vectors: torch.Tensor) -> torch.Tensor:
        """Wᵀ Y: (rows, q) → (k, q)."""
        result = torch.zeros(self.k, vectors.shape[1], dtype=torch.float64, device=self.device)
        for rows, block in self._blocks():
            result += block.T @ vectors[rows]
        return result


def product_error(length: int) -> float:
    """Bound on the relative rounding error of an inner product, against Σ|xy|.

    With rounding errors of mean zero it stays near √length · ε/2 (Higham & Mary, SIAM J. Sci.
    Comput. 41, 2019); four times √length · ε leaves a factor of eight, and up to length 64 it
    is above the worst case, length · ε/2.
    """
    return 4.0 * math.sqrt(length) * EPS
