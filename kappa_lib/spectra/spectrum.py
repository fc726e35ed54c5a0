"""Measures of one matrix's singular values: κ, volume, rank, the null of its shape, change.

``s`` is a spectrum: shape (k,), non-negative, descending, as :func:`singular_values` returns it;
``log_volume`` and ``effective_rank`` raise InputError for anything else. ``weight`` is a matrix
(rows, cols).
"""

import math

import numpy as np
import torch
from scipy.linalg import subspace_angles
from scipy.special import ndtri

from kappa_lib.errors import InputError
from kappa_lib.spectra.gram import Bounded, GramOperator
from kappa_lib.spectra.solvers import decompose, eigenpairs, one_thread_in_numpy
from kappa_lib.theory.checks import as_matrix, as_spectrum, nonzero_spectrum, rank_tolerance

# Median of κ/n of a square real Gaussian matrix as n → ∞: the root of
# exp(-2/x - 2/x²) = 1/2, Edelman's limiting law (SIAM J. Matrix Anal. 9, 1988, Theorem 6.1).
_LOG2 = math.log(2.0)
EDELMAN_MEDIAN = (1.0 + math.sqrt(1.0 + 2.0 * _LOG2)) / _LOG2
# Mean and standard deviation of the Tracy-Widom law of order 1 (Bornemann 2010).
_TRACY_WIDOM = -1.2065335746, 1.2679883
# Above this κ the Gram matrix' squared values no longer tell the smallest directions apart to
# 1e-6 (their error is near κ²ε), and a full SVD takes its place.
_GRAM_LIMIT = 1e5
# Singular vectors at either end whose span is compared; fewer where the rank is lower.
_DIRECTIONS = 8
# Angles between subspaces below this, in radians, are rounding of float64's vectors.
_RESOLVED = 1e-12
# Fewer eigenvalues than this do not make a tail.
_SHORTEST = 20


def singular_values(weight: torch.Tensor | np.ndarray) -> np.ndarray:
    """All min(rows, cols) singular values, float64, descending; errors of ``checks.as_matrix``."""
    return decompose(weight).values


def condition_number(weight: torch.Tensor | np.ndarray) -> float:
    """κ(W) = σ₁/σ_k, eq. (1), with σ_k the smallest that ``checks.rank_tolerance`` keeps."""
    return decompose(weight).kappa


def kappa(weight: torch.Tensor | np.ndarray, *, device: str = "cpu") -> Bounded:
    """κ of a matrix (rows, cols) of any floating-point dtype, and the bound on its error; errors of
    :func:`kappa_lib.spectra.solvers.decompose`."""
    found = decompose(weight, "extremes", device=device)
    return Bounded(found.kappa, found.kappa_error)


def log_volume(s: np.ndarray) -> float:
    """V = Σ log σᵢ over the non-zero singular values, in nats, eq. (8)."""
    return float(np.log(nonzero_spectrum(as_spectrum(s, descending=True))).sum())


def effective_rank(s: np.ndarray) -> float:
    """exp of the Shannon entropy of σᵢ/Σσ, in [1, k] (Roy & Vetterli, EUSIPCO 2007)."""
    p = nonzero_spectrum(as_spectrum(s, descending=True)) / np.sum(s)
    return float(np.exp(-(p * np.log(p)).sum()))


def power_law_tail(s: np.ndarray) -> tuple[float, float]:
    """Power law p(λ) ∝ λ^-α fitted to the tail of the eigenvalues λ = σ².

    The estimator of Clauset, Shalizi & Newman (SIAM Review 51, 2009), which is behind
    WeightWatcher's α: maximum likelihood for every possible start of the tail, and of these the
    one with the smallest Kolmogorov-Smirnov distance.

    Returns:
        α and the eigenvalue at which the tail starts; NaN for fewer than 20 non-zero eigenvalues
        or a flat spectrum.
    """
    logs = 2.0 * np.log(np.sort(s[s > 0]))
    n = len(logs)
    if n < _SHORTEST or logs[0] == logs[-1]:
        return math.nan, math.nan
    sizes = n - np.arange(n - 1)
    excess = np.cumsum(logs[::-1])[::-1][:-1] - sizes * logs[:-1]
    # The last few starts can coincide with the maximum, which leaves no tail to fit.
    starts = np.flatnonzero(excess > 0)
    alphas = 1.0 + sizes[starts] / excess[starts]
    distances = []
    for first, alpha in zip(starts, alphas, strict=True):
        seen = np.arange(n - first) / (n - first)
        fitted = -np.expm1((1.0 - alpha) * (logs[first:] - logs[first]))
        distances.append(np.abs(fitted - seen).max())
    best = int(np.argmin(distances))
    return float(alphas[best]), float(np.exp(logs[starts[best]]))


def marchenko_pastur_kappa(rows: int, cols: int) -> float:
    """Typical κ of a rows × cols matrix of i.i.d. entries: what its shape alone decides.

    With β = min/max of the dimensions the Marchenko-Pastur edges give (1+√β)/(1-√β). Towards
    β = 1 the lower edge closes and the finite size decides: we replace √k in the denominator by
    √(k-a), with ``a`` set so that an n × n matrix has the median of Edelman's law, κ ≈ 3.67 n.
    The edges are used as they are wherever that changes less than 1 %. Against Monte Carlo medians
    at k = 60 the value is within 25 %, small beside the spread of κ of nearly square matrices.

    Raises:
        InputError: a dimension below 1.
    """
    if min(rows, cols) < 1:
        raise InputError(f"shape {rows}×{cols} has an empty dimension", "give positive sizes")
    k, n = sorted((rows, cols))
    if k == 1:
        return 1.0
    offset = 4.0 / EDELMAN_MEDIAN
    gap = (n - k) / (math.sqrt(n) + math.sqrt(k))
    finite_gap = (n - k + offset) / (math.sqrt(n) + math.sqrt(k - offset))
    use_edges = finite_gap <= 1.01 * gap
    return (math.sqrt(n) + math.sqrt(k)) / (gap if use_edges else finite_gap)


def null_kappa_quantile(rows: int, cols: int, share: float) -> float:
    """The κ below which a ``share`` of matrices of independent Gaussian entries lie.

    Square: Edelman (1988), P(κ/n < x) = exp(-2/x - 2/x²) for large n. Else both edges fluctuate by
    independent Tracy-Widom laws (Johnstone 2001; Ma 2012), taken together as normal in log κ.
    """
    small, large = sorted((rows, cols))
    if small == large:
        return float(2 * small / (np.sqrt(1 - 2 * np.log(share)) - 1))
    p, n = np.sqrt([small - 0.5, large - 0.5])
    top, bottom = n + p, n - p
    widths = np.array([(1 / n + 1 / p) ** (1 / 3) / top, (1 / p - 1 / n) ** (1 / 3) / bottom])
    mean, deviation = _TRACY_WIDOM
    centre = np.log(top / bottom) + mean * widths.sum() / 2
    return float(np.exp(centre + ndtri(share) * deviation * np.sqrt((widths**2).sum()) / 2))


def spectral_change(before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    """What training did to a matrix (rows, cols): its κ, its extreme singular values, and their
    directions, in float64 on the matrix' own device.

    Returns:
        ``kappa_before``, ``kappa_after``; ``dlogkappa``, the natural logarithm of their ratio;
        ``sigma_max_*``, ``sigma_min_*``, ``effective_rank_*`` likewise; ``angle_top_left``,
        ``angle_top_right``, ``angle_bottom_left``, ``angle_bottom_right``, the largest principal
        angle, in radians, between what ``_DIRECTIONS`` singular vectors of the largest or of the
        smallest non-zero values span before and after (Björck and Golub 1973); and
        ``relative_change``, ‖after - before‖_F/‖before‖_F.

    Raises:
        InputError: the shapes differ, or a matrix is refused by ``checks.as_matrix``.
    """
    pair = [as_matrix(before, "before").double(), as_matrix(after, "after").double()]
    if pair[0].shape != pair[1].shape:
        shapes = " and ".join("×".join(map(str, matrix.shape)) for matrix in pair)
        raise InputError(f"matrices of {shapes}", "compare a tensor with itself, before and after")
    first = singular_vectors(pair[0], _DIRECTIONS)
    found = [first, first if torch.equal(*pair) else singular_vectors(pair[1], _DIRECTIONS)]
    row: dict[str, float] = {}
    for when, s in zip(("before", "after"), (s.cpu().numpy() for _, s, _ in found), strict=True):
        row[f"kappa_{when}"] = s[0] / s[-1]
        row[f"sigma_max_{when}"], row[f"sigma_min_{when}"] = s[0], s[-1]
        row[f"effective_rank_{when}"] = effective_rank(s)
    row["dlogkappa"] = math.log(row["kappa_after"] / row["kappa_before"])
    k = min(_DIRECTIONS, *(len(s) for _, s, _ in found))
    for place, part in (("top", slice(None, k)), ("bottom", slice(-k, None))):
        for side, vectors in (("left", 0), ("right", 2)):
            bases = (item[vectors][:, part].cpu().numpy() for item in found)
            angle = subspace_angles(*bases)[0]
            row[f"angle_{place}_{side}"] = angle if angle > _RESOLVED else 0.0
    norms = torch.linalg.norm(pair[1] - pair[0]), torch.linalg.norm(pair[0])
    row["relative_change"] = norms[0] / norms[1]
    return {name: float(value) for name, value in row.items()}


@one_thread_in_numpy()
def singular_vectors(
    matrix: torch.Tensor, ends: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (rows, q), the non-zero singular values (rank,), descending, and V (cols, q).

    Vectors are of all singular values, or of the first and last ``ends`` of them only. ``matrix``
    is of float64, on any device, where the results are too.
    """
    tall, is_tall = (matrix, True) if matrix.shape[0] >= matrix.shape[1] else (matrix.T, False)
    squares, v = eigenpairs(GramOperator(tall).gram if tall.device.type == "cpu" else tall.T @ tall)
    squares, v = squares.flip(0), v.flip(1)
    by_gram = bool(squares[-1] * _GRAM_LIMIT**2 > squares[0])
    if by_gram:
        s = squares.sqrt()
    else:
        left, s, right = torch.linalg.svd(tall, full_matrices=False)
        v = right.T
    s = s[s > rank_tolerance(tuple(matrix.shape)) * s[0]]
    order = torch.arange(len(s), device=s.device)
    kept = order if ends is None else order[(order < ends) | (order >= len(s) - ends)]
    v = v[:, kept]
    u = tall @ v / s[kept] if by_gram else left[:, kept]
    return (u, s, v) if is_tall else (v, s, u)
