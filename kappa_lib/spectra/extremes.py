"""The two extreme singular values alone: Cholesky, Lanczos, and a check against W itself.

The Gram matrix G = WᵀW squares the condition, which costs the smallest singular value half its
digits. Its eigenvector is still good: refined against W, the value σ = ‖Wv‖ loses only what a
product with W loses. How far σ can be from the truth follows from the residual of v and from
the distance to the next singular value (Kato-Temple), which G does resolve.

On a GPU all of it but Lanczos' short recurrence stays there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg.blas import dsymv
from scipy.linalg.lapack import dpotrf
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from kappa_lib.spectra.gram import GramOperator, product_error
from kappa_lib.theory.checks import EPS

# Relative residual at which Lanczos stops, and its longest run. A start vector drawn at random
# misses an eigenvector to this level with a probability of about the level itself.
LANCZOS_TOLERANCE = 1e-8
_LANCZOS_RUNS = 200
_BASIS = 16
# ARPACK wants a basis smaller than the matrix; below this the whole spectrum is cheap anyway.
SMALLEST = 64
_REFINEMENTS = 8
# Random vectors that measure an error; the measure fails with a probability of 10 to minus this.
_PROBES = 6


@dataclass(frozen=True)
class Extreme:
    """One extreme singular value and a bound on its relative error."""

    value: float
    error: float


@dataclass(frozen=True)
class Factored:
    """A Gram matrix's Cholesky factor, and what is known of its extreme eigenvalues.

    Attributes:
        factor: lower Cholesky factor, (k, k).
        largest_square: estimate of σ₁².
        smallest_square: estimate of σ_k².
        second_square: estimate of σ_{k-1}², the second smallest.
        slack: relative error of these as eigenvalues of the factored matrix.
        error: bound on their absolute error as squared singular values of W.
        vector: unit eigenvector of the smallest eigenvalue, (k,).
    """

    factor: torch.Tensor
    largest_square: float
    smallest_square: float
    second_square: float
    slack: float
    error: float
    vector: torch.Tensor

    @property
    def largest(self) -> Extreme:
        """σ₁: relative to itself the Gram matrix is accurate enough."""
        return Extreme(
            math.sqrt(self.largest_square), self.error / self.largest_square + self.slack
        )

    @property
    def smallest(self) -> Extreme:
        """σ_k as the Gram matrix has it, with the bound that squaring leaves."""
        low = self.smallest_square * (1 - LANCZOS_TOLERANCE) - self.error
        bound = math.sqrt(self.smallest_square / low) - 1 if low > 0 else math.inf
        return Extreme(math.sqrt(self.smallest_square), bound)


def factor(operator: GramOperator, eigenvalues: np.ndarray | None = None) -> Factored | None:
    """Extreme eigenvalues of the Gram matrix; None where it is not safely positive definite.

    Args:
        operator: the matrix, k ≥ ``SMALLEST``.
        eigenvalues: all of them, descending, if they are known; else Lanczos finds the extreme
            ones. A single start vector sees one of several equal eigenvalues, which is no error
            in σ, and parts two as soon as they differ by ``LANCZOS_TOLERANCE``.
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


def refined_smallest(found: Factored, operator: GramOperator, goal: float) -> Extreme:
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
        end = Extreme(sigma, _kato_temple(found, operator, sigma, float(residual.norm())))
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
