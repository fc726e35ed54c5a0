"""From a matrix to its singular values, or only the two that make κ, with a bound on κ's error.

Everything is computed in float64, to which every stored dtype widens exactly.

``auto``      all singular values, as eigenvalues of the Gram matrix of the shorter side. Squaring
              leaves a small σ with a relative error near κ²ε; where the bound on κ's error exceeds
              a tolerance, σ_k is refined against the matrix; where that is not enough, ``svd``.
``extremes``  σ₁ and σ_k alone, from the same product, refined or replaced by the same rule.
``svd``       LAPACK's SVD: error near κε, at several times the cost.
"""

import ctypes
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.linalg import _umath_linalg

from kappa_lib.errors import InputError
from kappa_lib.spectra import gram
from kappa_lib.spectra.gram import SIDE_BY_SIDE, Bounded, GramOperator
from kappa_lib.theory.checks import EPS, as_matrix, matrix_form, rank_tolerance

METHODS = ("auto", "extremes", "svd")
TOLERANCE = 1e-6
# From this many singular values on their two ends cost less than all of them.
EXTREMES_FROM = 1024
# Traces of the Gram matrix between which no square left float64's range in a way that matters.
SMALLEST_TRACE, LARGEST_TRACE = 1e-200, 1e200

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread_in_numpy() -> Iterator[None]:
    """Let numpy's own OpenBLAS compute with one thread, for which numpy has no function: several
    wait for each other actively, which on a busy machine costs many times what they gain."""
    library = ctypes.CDLL(_umath_linalg.__file__)
    names = [f"scipy_openblas_{verb}_num_threads64_" for verb in ("get", "set")]
    if not all(hasattr(library, name) for name in names):
        yield
        return
    current, change = (getattr(library, name) for name in names)
    before = current()  # within side_by_side one already, so that no thread changes it for others
    change(1)
    try:
        yield
    finally:
        change(before)


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of ``work`` in the order of ``items``, as many at a time as torch has threads.

    Each is computed by a single thread, so that not even its last bits depend on how many there
    are. Items are taken as they are needed, never more than two a thread ahead.
    """
    threads = torch.get_num_threads()
    waiting: deque[Future[R]] = deque()
    torch.set_num_threads(1)
    try:
        with one_thread_in_numpy(), ThreadPoolExecutor(threads) as pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                # With one a thread ahead, a thread idles while the first result is a long one.
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Spectrum:
    """What was found out about one matrix's singular values."""

    shape: tuple[int, int]  # (rows, cols)
    method: str  # the route that was taken, with its BLAS and LAPACK routines
    sigma_max: float
    sigma_min: float  # the smallest non-zero singular value
    kappa_error: float  # bound on |κ - κ_true|/κ_true; infinite where zeros can't be told
    rank_deficiency: int  # number of zero singular values
    frobenius: float
    log_volume: float  # Σ log σᵢ over the non-zero values, nats
    values: np.ndarray | None  # (k,) float64, descending; None where only the ends were computed

    @property
    def kappa(self) -> float:
        """σ₁ over the smallest non-zero singular value, eq. (1)."""
        return self.sigma_max / self.sigma_min


@one_thread_in_numpy()
def decompose(
    weight: torch.Tensor | np.ndarray,
    method: str = "auto",
    *,
    device: str = "cpu",
    name: str = "weight",
) -> Spectrum:
    """Singular values of ``weight`` with κ and its error bound.

    Args:
        weight: matrix (rows, cols), any floating-point dtype.
        method: one of ``METHODS``.
        device: ``cpu`` or ``cuda``.
        name: what error messages call the matrix.

    Raises:
        InputError: unknown method, or a matrix refused by ``checks.as_matrix``.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown", f"use one of {', '.join(METHODS)}")
    matrix, found = matrix_form(weight, name), None
    if method != "svd":
        operator = GramOperator(matrix, device)
        extremes_only = method == "extremes" and operator.k >= EXTREMES_FROM
        # The trace, Σ w², tells without another pass over the weights whether they are sound.
        if SMALLEST_TRACE < operator.trace < LARGEST_TRACE:
            found = (_extremes if extremes_only else _by_gram)(operator)
    if found is None or found.kappa_error > TOLERANCE:
        found = _by_svd(as_matrix(matrix, name), device)
    return found


def _by_gram(operator: GramOperator) -> Spectrum:
    """All singular values; the smallest refined where its bound exceeds ``TOLERANCE``."""
    library, product = _eigensolvers(operator.gram)
    squares = torch.as_tensor(library.eigvalsh(product)).cpu().numpy()
    values = np.sqrt(np.clip(squares[::-1], 0.0, None))
    errors = operator.gram_error / np.maximum(values, math.sqrt(operator.trace) * EPS)
    label = "gram (dsyrk, dsyevd)" if operator.device == "cpu" else "gram (cuda gemm, syevd)"
    found = _assemble(values, errors, operator.shape, label)
    if found.kappa_error <= TOLERANCE or operator.k < gram.SMALLEST:
        return found
    factored = gram.factor(operator, values**2)
    if factored is None:
        return found
    end = gram.refined_smallest(factored, operator, TOLERANCE)
    if len(values) > 1 and end.value > values[-2]:  # others of the smallest are lost in rounding
        return found
    values[-1], errors[-1] = end.value, end.error * end.value
    return _assemble(values, errors, operator.shape, f"{label}, refined")


def _eigensolvers(product: torch.Tensor) -> tuple[Any, Any]:
    """The library that is faster on a symmetric matrix given by its lower triangle, and the matrix
    for it. On one thread numpy's OpenBLAS is by a third, on several torch's MKL."""
    small = product.device.type == "cpu" and len(product) <= SIDE_BY_SIDE
    return (np.linalg, product.numpy()) if small else (torch.linalg, product)


def eigenpairs(product: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues of such a matrix, (k,), ascending, and its eigenvectors, (k, k), where it is."""
    library, matrix = _eigensolvers(product)
    values, vectors = library.eigh(matrix)
    return torch.as_tensor(values), torch.as_tensor(vectors)


def _extremes(operator: GramOperator) -> Spectrum | None:
    """σ₁ and σ_k alone; None where the Gram matrix can't tell that the rank is full."""
    factored = gram.factor(operator)
    if factored is None:
        return None
    # Relative to σ₁² itself the Gram matrix is accurate enough.
    error = factored.error / factored.largest_square + factored.slack
    largest, smallest = Bounded(math.sqrt(factored.largest_square), error), factored.smallest
    routines = "dsyrk, dpotrf" if operator.device == "cpu" else "cuda gemm, potrf"
    label = f"extremes ({routines}, Lanczos)"
    if _combined(largest, smallest) > TOLERANCE:
        smallest = gram.refined_smallest(factored, operator, TOLERANCE)
        label += ", refined"
    floor = rank_tolerance(operator.shape) * largest.value * (1 + largest.error)
    if not smallest.value * (1 - smallest.error) > floor:
        return None
    return Spectrum(
        shape=operator.shape,
        method=label,
        sigma_max=largest.value,
        sigma_min=smallest.value,
        kappa_error=_combined(largest, smallest),
        rank_deficiency=0,
        frobenius=math.sqrt(operator.trace),
        log_volume=float(factored.factor.diagonal().log().sum()),
        values=None,
    )


def _by_svd(matrix: torch.Tensor, device: str) -> Spectrum:
    shape = tuple(matrix.shape)
    wide = matrix.to(device, torch.float64, copy=True)
    # On CUDA the one of cuSOLVER's drivers that is backward stable in the ordinary sense.
    values = torch.linalg.svdvals(wide, driver="gesvd" if device == "cuda" else None)
    values = values.cpu().numpy()
    label = "svd (dgesdd)" if device == "cpu" else "svd (cuda gesvd)"
    error = (4.0 + math.sqrt(max(shape))) * EPS * values[0]
    return _assemble(values, np.full(len(values), error), shape, label)


def _combined(largest: Bounded, smallest: Bounded) -> float:
    """Bound on κ's relative error: κ/κ_true = (σ̂₁/σ₁)(σ_k/σ̂_k)."""
    return math.inf if largest.error >= 1 else (1 + smallest.error) / (1 - largest.error) - 1


def _assemble(
    values: np.ndarray, errors: np.ndarray, shape: tuple[int, int], method: str
) -> Spectrum:
    """A spectrum from all values and a bound on each one's absolute error, both (k,)."""
    threshold = rank_tolerance(shape) * values[0]
    zeros = int(np.count_nonzero(values <= threshold))
    last = len(values) - zeros - 1
    undecided = bool(np.any(np.abs(values - threshold) <= errors))
    ends = [Bounded(float(values[i]), float(errors[i] / values[i])) for i in (0, last)]
    return Spectrum(
        shape=shape,
        method=method,
        sigma_max=ends[0].value,
        sigma_min=ends[1].value,
        kappa_error=math.inf if undecided else _combined(*ends),
        rank_deficiency=zeros,
        frobenius=float(values[0] * np.linalg.norm(values / values[0])),
        log_volume=float(np.log(values[: last + 1]).sum()),
        values=values,
    )
