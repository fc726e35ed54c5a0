"""Products with a stored matrix in float64, a block of rows at a time.

A block is widened to float64 when its turn comes, so that a bf16 matrix is never held twice. All
functions see the matrix tall: (rows, k) with rows ≥ k, transposed where needed.

Everything is torch's, so that one setting, ``torch.set_num_threads``, governs its threads, and
matrices can be measured side by side. Operands start at 64-byte boundaries (torch's own memory
does): on others MKL may round differently, and a row of the κ table could change its last bits.
"""

import math
from collections.abc import Iterator

import torch

from kappa_lib.theory.checks import EPS

# Numbers widened to float64 at a time: 2²² are 32 MiB.
BLOCK_NUMBERS = 1 << 22
# Columns of the Gram matrix made at a time: few enough that little more than its lower half is
# computed, enough for the product to run at full speed, and a multiple of 8 (64 bytes).
PANEL = 192


class Tall:
    """A stored matrix seen tall, with blocked float64 products on the CPU.

    Args:
        matrix: (m, n), any floating-point dtype.
        device: where :meth:`gram` multiplies, ``cpu`` or ``cuda``.
    """

    def __init__(self, matrix: torch.Tensor, device: str = "cpu") -> None:
        self._matrix = matrix
        self._is_tall = matrix.shape[0] >= matrix.shape[1]
        self.rows, self.k = matrix.shape if self._is_tall else matrix.shape[::-1]
        self.device = device
        # A matrix of a single block is widened once.
        self._kept: torch.Tensor | None = None

    def _blocks(self, device: str = "cpu") -> Iterator[tuple[slice, torch.Tensor]]:
        """Slices of the tall rows, and the numbers there in float64 as (b, k)."""
        if self._kept is not None:
            yield slice(0, self.rows), self._kept
            return
        step = max(1, BLOCK_NUMBERS // self.k)
        for start in range(0, self.rows, step):
            rows = slice(start, min(start + step, self.rows))
            block = self._matrix[rows] if self._is_tall else self._matrix[:, rows]
            wide = block.to(device, torch.float64, copy=True, memory_format=torch.contiguous_format)
            wide = wide if self._is_tall else wide.T
            if device == "cpu" and step >= self.rows:
                self._kept = wide
            yield rows, wide

    def gram(self) -> torch.Tensor:
        """WᵀW, (k, k), of which only the lower triangle is to be read."""
        product = torch.zeros(self.k, self.k, dtype=torch.float64, device=self.device)
        for _, block in self._blocks(self.device):
            for start in range(0, self.k, PANEL):
                columns = slice(start, min(start + PANEL, self.k))
                product[start:, columns].addmm_(block[:, start:].T, block[:, columns])
        return product

    def times(self, vectors: torch.Tensor) -> torch.Tensor:
        """W V: (k, q) → (rows, q)."""
        return torch.cat([block @ vectors for _, block in self._blocks()])

    def transposed_times(self, vectors: torch.Tensor) -> torch.Tensor:
        """Wᵀ Y: (rows, q) → (k, q)."""
        result = torch.zeros(self.k, vectors.shape[1], dtype=torch.float64)
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


def gram_error(rows: int, k: int, trace: float) -> float:
    """Bound on the absolute error of every eigenvalue that is computed from the Gram matrix.

    The trace, ‖W‖_F², bounds the norm of |W|ᵀ|W| that multiplies the inner products' error. The
    backward errors of the Cholesky factorisation and of the eigensolver have the same form.
    """
    return product_error(max(rows, k)) * trace
