"""Products with a stored matrix in float64, a block of rows at a time.

A block is widened to float64 when its turn comes, so that a bf16 matrix is never held twice. All
functions see the matrix tall: (rows, k) with rows ≥ k, transposed where needed.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.linalg import blas

from kappa_lib.theory.checks import EPS

# Numbers widened to float64 at a time: 2²² are 32 MiB.
BLOCK_NUMBERS = 1 << 22


class Tall:
    """A stored matrix seen tall, with blocked float64 products on the CPU or on CUDA.

    Args:
        matrix: (m, n), any floating-point dtype.
        device: where :meth:`gram` multiplies, ``cpu`` or ``cuda``.
    """

    def __init__(self, matrix: torch.Tensor, device: str = "cpu") -> None:
        self._matrix = matrix
        self._is_tall = matrix.shape[0] >= matrix.shape[1]
        self.rows, self.k = matrix.shape if self._is_tall else matrix.shape[::-1]
        self.device = device

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Slices of the tall rows, and the stored numbers there in the order they are stored."""
        step = max(1, BLOCK_NUMBERS // self.k)
        for start in range(0, self.rows, step):
            rows = slice(start, min(start + step, self.rows))
            yield rows, self._matrix[rows] if self._is_tall else self._matrix[:, rows]

    def _wide_blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The same in float64 as (b, k) arrays: C-ordered, or Fortran where stored wide."""
        for rows, block in self._blocks():
            wide = block.to("cpu", torch.float64).contiguous().numpy()
            yield rows, wide if self._is_tall else wide.T

    def gram(self) -> np.ndarray:
        """WᵀW by a symmetric rank-k product: its lower triangle, (k, k) in Fortran order."""
        if self.device == "cuda":
            return self._gram_on_cuda()
        product = np.zeros((self.k, self.k), order="F")
        for _, block in self._wide_blocks():
            # BLAS reads Fortran order: the (b, k) block as it is, or its (k, b) transpose.
            read, trans = (block.T, 0) if self._is_tall else (block, 1)
            product = blas.dsyrk(
                1.0, read, beta=1.0, c=product, trans=trans, lower=1, overwrite_c=1
            )
        return product

    def _gram_on_cuda(self) -> np.ndarray:
        product = torch.zeros(self.k, self.k, dtype=torch.float64, device="cuda")
        for _, block in self._blocks():
            wide = block.to("cuda", torch.float64)
            wide = wide if self._is_tall else wide.T
            product.addmm_(wide.T, wide)
        return np.asfortranarray(product.cpu().numpy())

    def times(self, vectors: np.ndarray) -> np.ndarray:
        """W V: (k, q) → (rows, q)."""
        result = np.empty((self.rows, vectors.shape[1]))
        for rows, block in self._wide_blocks():
            result[rows] = block @ vectors
        return result

    def transposed_times(self, vectors: np.ndarray) -> np.ndarray:
        """Wᵀ Y: (rows, q) → (k, q)."""
        result = np.zeros((self.k, vectors.shape[1]))
        for rows, block in self._wide_blocks():
            result += block.T @ vectors[rows]
        return result


def product_error(length: int) -> float:
    """Bound on the relative rounding error of an inner product, against Σ|xy|.

    With rounding errors of mean zero it stays near √length · ε/2 (Higham & Mary, SIAM J. Sci.
    Comput. 41, 2019); four times √length · ε leaves a factor of eight, and up to length 64 it
    is above the worst case, length · ε/2.
    """
    return 4.0 * math.sqrt(length) * EPS


def gram_error(rows: int, k: int, trace: float) -> float:
    """Bound on the absolute error of every eigenvalue that is computed from the Gram matrix.

    The trace, ‖W‖_F², bounds the norm of |W|ᵀ|W| that multiplies the inner products' error. The
    backward errors of the Cholesky factorisation and of the eigensolver have the same form.
    """
    return product_error(max(rows, k)) * trace
