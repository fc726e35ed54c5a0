"""A matrix's Gram product WᵀW in float64, and the two ends of its singular values by it.

Products go over a block of rows at a time, so a bf16 matrix is never held twice. Operands lie in
torch's own memory, which starts at 64-byte boundaries: on others MKL may round differently. On a
GPU the matrix goes over once, as stored, and all but Lanczos' short recurrence stays there.

The Gram matrix squares the condition, which costs the smallest singular value half its digits. Its
eigenvector, by Cholesky and Lanczos, is still good: refined against W, σ = ‖Wv‖ loses only what a
product with W loses. How far σ can be from the truth follows from the residual of v and from the
distance to the next singular value (Kato-Temple), which the Gram matrix does resolve.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg.blas import dsymv, dsyrk
from scipy.linalg.lapack import dpotrf
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from kappa_lib.theory.checks import EPS

# Numbers widened to float64 at a time: 2²² are 32 MiB; on a GPU a GiB, chosen, not tuned.
BLOCK_NUMBERS = 1 << 22
BLOCK_NUMBERS_CUDA = 1 << 27
# Matrices with no more singular values than this are measured side by side, a thread each: the
# larger ones would take too much memory, and keep several threads busy by themselves.
SIDE_BY_SIDE = 2048
# Relative residual at which Lanczos stops: to this level a start vector drawn at random misses an
# eigenvector with a probability of about the level itself.
LANCZOS_TOLERANCE = 1e-8
_LANCZOS_RUNS = 200
_BASIS = 16
# ARPACK wants a basis smaller than the matrix; below this the whole spectrum is cheap anyway.
SMALLEST = 64
_REFINEMENTS = 8
# Random vectors that measure an error; the measure fails with a probability of 10 to minus this.
_PROBES = 6


class GramOperator:
    """WᵀW of a matrix W, (rows, k) with rows ≥ k, and products with W and Wᵀ, computed on the
    ``device``. The ``matrix`` is W or its transpose, of any floating-point dtype."""

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

        The trace bounds the norm of |W|ᵀ|W|, by which the inner products' error and the backward
        errors of the Cholesky factorisation and of the eigensolver are multiplied.
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


class Bounded(NamedTuple):
    """A number, and a bound on its relative error |value - truth|/truth."""

    value: float
    error: float


@dataclass(frozen=True)
class Factored:
    """A Gram matrix's Cholesky factor, and what is known of its extreme eigenvalues."""

    factor: torch.Tensor  # lower, (k, k)
    largest_square: float  # estimate of σ₁²
    smallest_square: float  # of σ_k²
    second_square: float  # of σ_{k-1}², the second smallest
    slack: float  # relative error of these as eigenvalues of the factored matrix
    error: float  # bound on their absolute error as squared singular values of W
    vector: torch.Tensor  # unit eigenvector of the smallest eigenvalue, (k,)

    @property
    def smallest(self) -> Bounded:
        """σ_k as the Gram matrix has it, with the bound that squaring leaves."""
        low = self.smallest_square * (1 - LANCZOS_TOLERANCE) - self.error
        bound = math.sqrt(self.smallest_square / low) - 1 if low > 0 else math.inf
        return Bounded(math.sqrt(self.smallest_square), bound)


def factor(operator: GramOperator, eigenvalues: np.ndarray | None = None) -> Factored | None:
    """Extreme eigenvalues of the Gram matrix, k ≥ ``SMALLEST``; None where it is not safely
    positive definite.

    Unless all ``eigenvalues`` are known (descending), Lanczos finds the extreme ones. A single
    start vector sees one of several equal eigenvalues, which is no error in σ, and parts two as
    soon as they differ by ``LANCZOS_TOLERANCE``.
    """
    if (lower := _cholesky(operator)) is None:
        return None
    known = eigenvalues is not None
    try:
        inverse, vectors = _lanczos(lambda x: _solve(lower, x), operator, 1 if known else 2)
        if not known:
            outermost, _ = _lanczos(_multiplication(operator), operator, 1)
    except ArpackNoConvergence:
        return None
    return Factored(
        factor=lower,
        largest_square=float(eigenvalues[0] if known else outermost[0]),
        smallest_square=float(1.0 / inverse.max()),
        second_square=float(eigenvalues[-2] if known else 1.0 / inverse.min()),
        slack=0.0 if known else LANCZOS_TOLERANCE,
        error=operator.gram_error,
        vector=torch.tensor(vectors[:, int(np.argmax(inverse))], device=operator.device),
    )


def _cholesky(operator: GramOperator) -> torch.Tensor | None:
    """L of the Gram matrix L Lᵀ, (k, k); None if it is not positive definite."""
    if operator.by_scipy:
        upper, info = dpotrf(operator.gram.numpy().T)  # as Fortran has it
        lower = torch.from_numpy(upper.T)
    else:
        lower, info = torch.linalg.cholesky_ex(operator.gram)
    return None if info else lower


def _multiplication(operator: GramOperator) -> Callable[[torch.Tensor], torch.Tensor]:
    """What multiplies a column (k, 1) by the Gram matrix."""
    if operator.by_scipy:
        upper = operator.gram.numpy().T
        return lambda x: torch.from_numpy(dsymv(1.0, upper, x[:, 0].numpy()))[:, None]
    whole = operator.gram.tril() + operator.gram.tril(-1).T
    return lambda x: whole @ x


def _solve(lower: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x of L Lᵀ x = b, b (k, q): for few columns faster than LAPACK's solver for the purpose."""
    half = torch.linalg.solve_triangular(lower, right, upper=False)
    return torch.linalg.solve_triangular(lower.T, half, upper=True)


def _sharpened(found: Factored, operator: GramOperator) -> Factored:
    """The same with its error measured on random vectors instead of bounded a priori.

    For a matrix B and r Gaussian vectors, ‖B‖ ≤ 10 √(2/π) max ‖Bω‖ with probability 1 - 10⁻ʳ
    (Halko, Martinsson & Tropp, SIAM Review 53, 2011, Lemma 4.1). B is the factored matrix minus
    WᵀW, which holds the rounding of the product and of the factorisation; the eigensolver's is
    added at √k ε σ₁².
    """
    normal = np.random.default_rng(operator.k).standard_normal((operator.k, _PROBES))
    probes = torch.tensor(normal, device=operator.device)
    images = operator.apply_transposed(operator.apply(probes))
    difference = found.factor @ (found.factor.T @ probes) - images
    norm = 10.0 * math.sqrt(2.0 / math.pi) * float(difference.norm(dim=0).max())
    measured = norm + math.sqrt(operator.k) * EPS * found.largest_square
    return replace(found, error=min(found.error, measured))


def _lanczos(
    apply: Callable[[torch.Tensor], torch.Tensor], operator: GramOperator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` largest eigenpairs of a symmetric operator on columns (k, 1)."""
    k = operator.k
    start = np.random.default_rng(k).standard_normal(k)

    def image(x: np.ndarray) -> np.ndarray:
        return apply(torch.tensor(x, device=operator.device).reshape(k, 1))[:, 0].cpu().numpy()

    return eigsh(
        LinearOperator((k, k), matvec=image, dtype=np.float64),
        k=count,
        which="LA",
        v0=start,
        ncv=min(_BASIS, k - 1),
        tol=LANCZOS_TOLERANCE,
        maxiter=_LANCZOS_RUNS,
    )


def refined_smallest(found: Factored, operator: GramOperator, goal: float) -> Bounded:
    """σ_k = ‖Wv‖ with v improved against W until the bound reaches ``goal`` or stalls.

    Each step adds the preconditioned residual to a basis of three and takes the best vector in
    it, as LOBPCG does, but by products with W, never with the Gram matrix.
    """
    found = _sharpened(found, operator)
    basis = found.vector[:, None]
    best = found.smallest
    for _ in range(_REFINEMENTS):
        images = operator.apply(basis)
        weights = torch.linalg.svd(images, full_matrices=False)[2][-1]
        v, image = basis @ weights, images @ weights
        sigma = float(image.norm())
        residual = operator.apply_transposed(image[:, None])[:, 0] / sigma - sigma * v
        end = Bounded(sigma, _kato_temple(found, operator, sigma, float(residual.norm())))
        stalled = end.error > 0.5 * best.error
        best = min(best, end, key=lambda e: e.error)
        if best.error <= goal or stalled:
            return best
        step = _solve(found.factor, residual[:, None])
        previous = basis @ torch.linalg.qr(weights[:, None], mode="complete")[0][:, 1:2]
        basis = torch.linalg.qr(torch.cat([v[:, None], step, previous], dim=1))[0]
    return best


def _kato_temple(found: Factored, operator: GramOperator, sigma: float, residual: float) -> float:
    """Relative error of σ = ‖Wv‖ as the smallest singular value, from ‖Wᵀu - σv‖, u = Wv/σ.

    The symmetric matrix [0 W; Wᵀ 0] has the eigenvalues ±σᵢ, so (0, β) holds σ_k alone if β is
    below σ_{k-1}. Then the Rayleigh quotient η of (u, v) has η - ε²/(β-η) ≤ σ_k ≤ η + ε²/η, with
    ε the norm of its residual (Kato 1949). Rounding in the two products is added at its bound,
    and so is what Lanczos can't part.
    """
    rounding = product_error(operator.rows) * math.sqrt(operator.trace)
    epsilon = residual + 2 * rounding
    second = found.second_square * (1 - found.slack) - found.error
    room = min(math.sqrt(max(second, 0.0)) - sigma, sigma) - rounding
    if room <= epsilon:
        return math.inf
    absolute = rounding + epsilon**2 / room
    return absolute / (sigma - absolute) + LANCZOS_TOLERANCE
