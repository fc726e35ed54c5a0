"""The two ends of a spectrum without the rest: Cholesky, Lanczos, and a check against W itself.

The Gram matrix G = WᵀW squares the condition, which costs the smallest singular value half its
digits. Its eigenvector is still good: refined against W, the value σ = ‖Wv‖ loses only what a
product with W loses. How far σ can be from the truth follows from the residual of v and from
the distance to the next eigenvalue (Temple's inequality), which G does resolve.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, lapack
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from kappa_lib.gram import Tall, gram_error, product_error

# Relative residual at which Lanczos stops, and its longest run. A start vector drawn at random
# misses an eigenvector to this level with a probability of about the level itself.
LANCZOS_TOLERANCE = 1e-8
_LANCZOS_RUNS = 200
_BASIS = 16
# ARPACK wants a basis smaller than the matrix; below this the whole spectrum is cheap anyway.
SMALLEST = 64
_REFINEMENTS = 8


@dataclass(frozen=True)
class End:
    """One extreme singular value and a bound on its relative error."""

    value: float
    error: float


@dataclass(frozen=True)
class Factored:
    """A Gram matrix, its Cholesky factor, and what they say about the two ends of the spectrum.

    Attributes:
        factor: lower Cholesky factor, (k, k).
        largest: estimate of σ₁² and its absolute error.
        smallest: estimate of σ_k² and its absolute error.
        second: lower bound on σ_{k-1}².
        vector: unit eigenvector of the smallest eigenvalue, (k,).
    """

    factor: np.ndarray
    largest: tuple[float, float]
    smallest: tuple[float, float]
    second: float
    vector: np.ndarray

    @property
    def log_volume(self) -> float:
        """Σ log σᵢ in nats, from the factor's diagonal."""
        return float(np.log(np.diag(self.factor)).sum())


def factor(
    product: np.ndarray, tall: Tall, eigenvalues: np.ndarray | None = None
) -> Factored | None:
    """Ends of the Gram matrix's spectrum; None where it is not safely positive definite.

    Args:
        product: lower triangle of the Gram matrix, (k, k), k ≥ ``SMALLEST``.
        tall: the matrix it came from.
        eigenvalues: all of them, descending, if they are known; else Lanczos finds the ends. A
            single start vector sees one of several equal eigenvalues, which is no error in σ,
            and parts two as soon as they differ by ``LANCZOS_TOLERANCE``.
    """
    lower, info = lapack.dpotrf(product, lower=1, clean=1)
    if info != 0:
        return None
    try:
        inverse, vectors = _lanczos(lambda x: lapack.dpotrs(lower, x, lower=1)[0], tall.k, 2)
        if eigenvalues is None:
            top, _ = _lanczos(lambda x: blas.dsymv(1.0, product, x, lower=1), tall.k, 1)
    except ArpackNoConvergence:
        return None
    second, smallest = 1.0 / np.sort(inverse)
    largest, slack = (top[0], LANCZOS_TOLERANCE) if eigenvalues is None else (eigenvalues[0], 0.0)
    second = second if eigenvalues is None else eigenvalues[-2]
    error = gram_error(tall.rows, tall.k, float(np.trace(product)))
    return Factored(
        factor=lower,
        largest=(float(largest), error + largest * slack),
        smallest=(float(smallest), error + smallest * LANCZOS_TOLERANCE),
        second=float(second) * (1.0 - slack) - error,
        vector=vectors[:, int(np.argmax(inverse))],
    )


def _lanczos(apply, k: int, count: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN001
    """The ``count`` largest eigenpairs of a symmetric operator of size k."""
    start = np.random.default_rng(k).standard_normal(k)
    operator = LinearOperator((k, k), matvec=apply, dtype=np.float64)
    return eigsh(
        operator,
        k=count,
        which="LA",
        v0=start,
        ncv=min(_BASIS, k - 1),
        tol=LANCZOS_TOLERANCE,
        maxiter=_LANCZOS_RUNS,
    )


def top_end(found: Factored) -> End:
    """σ₁: relative to itself the Gram matrix is accurate enough."""
    value, error = found.largest
    return End(math.sqrt(value), error / value)


def bottom_end(found: Factored) -> End:
    """σ_k as the Gram matrix has it, with the bound that squaring leaves."""
    value, error = found.smallest
    low = value - error
    return End(math.sqrt(value), math.sqrt(value / low) - 1 if low > 0 else math.inf)


def refined_bottom(found: Factored, tall: Tall, frobenius: float, goal: float) -> End:
    """σ_k = ‖Wv‖ with v improved against W until the bound reaches ``goal`` or stalls.

    Each step adds the preconditioned residual to a basis of three and takes the best vector in
    it, as LOBPCG does, but by products with W, never with the Gram matrix.
    """
    basis = found.vector[:, None]
    best = bottom_end(found)
    for _ in range(_REFINEMENTS):
        images = tall.times(basis)
        weights = np.linalg.svd(images, full_matrices=False)[2][-1]
        v, image = basis @ weights, images @ weights
        sigma = float(np.linalg.norm(image))
        residual = tall.transposed_times(image[:, None])[:, 0] - sigma**2 * v
        end = End(sigma, _temple(found, tall, frobenius, sigma, float(np.linalg.norm(residual))))
        stalled = end.error > 0.5 * best.error
        best = min(best, end, key=lambda e: e.error)
        if best.error <= goal or stalled:
            return best
        step = lapack.dpotrs(found.factor, residual, lower=1)[0]
        previous = basis @ np.linalg.qr(weights[:, None], mode="complete")[0][:, 1:2]
        basis = np.linalg.qr(np.column_stack([v, step, previous]))[0]
    return best


def _temple(found: Factored, tall: Tall, frobenius: float, sigma: float, residual: float) -> float:
    """Relative error of σ = ‖Wv‖ as the smallest singular value, from v's residual.

    With only one eigenvalue of WᵀW below b, that one is at least σ² - ‖r‖²/(b - σ²). Rounding in
    Wv and in the residual is added at its bound, and what Lanczos can't part.
    """
    rounding = product_error(tall.k) * frobenius
    distance = found.second - sigma**2
    if distance <= 0 or rounding >= sigma:
        return math.inf
    residual += 2 * rounding * math.sqrt(found.largest[0])
    low = (sigma - rounding) ** 2 - residual**2 / distance
    if low <= 0:
        return math.inf
    return max(sigma / math.sqrt(low), 1 + rounding / sigma) - 1 + LANCZOS_TOLERANCE
