"""Spectral measures by which other tools choose tensors, to be held against κ.

Each function takes a spectrum ``s``: shape (k,), descending.
"""

import math

import numpy as np
import pandas as pd

# Measures of the κ table that are compared with each other.
MEASURES = [
    "kappa",
    "kappa_excess",
    "log_volume",
    "frobenius",
    "sigma_max",
    "effective_rank",
    "stable_rank",
    "spectrum_snr",
    "alpha",
]
# Fewer eigenvalues than this do not make a tail.
_SHORTEST = 20
# Interquartile range of a standard normal variable, as Spectrum rounds it.
_IQR = 1.349


def spectrum_snr(s: np.ndarray, shape: tuple[int, int]) -> float:
    """Spectrum's signal-to-noise ratio of a weight matrix (Hartford et al., arXiv 2406.06623).

    The noise level is estimated from the interquartile range of the singular values, the edge
    (1+√β) times that parts signal from noise, and the ratio of their sums is divided by σ₁. The
    edge lacks a factor √n that the Marchenko-Pastur law has; this is the published definition.

    Args:
        s: spectrum.
        shape: (rows, cols) of the matrix.

    Returns:
        The ratio; infinite where nothing is left below the edge.
    """
    low, high = np.quantile(s, [0.25, 0.75])
    beta = min(shape) / max(shape)
    signal = s > (high - low) / _IQR * (1.0 + math.sqrt(beta))
    noise = float(s[~signal].sum())
    return math.inf if noise == 0 else float(s[signal].sum()) / noise / float(s[0])


def tail_exponent(s: np.ndarray) -> float:
    """Exponent α of :func:`power_law_tail`."""
    return power_law_tail(s)[0]


def power_law_tail(s: np.ndarray) -> tuple[float, float]:
    """Power law p(λ) ∝ λ^-α fitted to the tail of the eigenvalues λ = σ².

    The estimator of Clauset, Shalizi & Newman (SIAM Review 51, 2009): maximum likelihood for
    every possible start of the tail, and of these the one with the smallest Kolmogorov-Smirnov
    distance. It is the one behind WeightWatcher's α (its own fitter since 0.7).

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
    usable = excess > 0
    alphas = 1.0 + sizes[usable] / excess[usable]
    starts = np.flatnonzero(usable)
    distances = [_distance(logs[i:] - logs[i], a) for i, a in zip(starts, alphas, strict=True)]
    best = int(np.argmin(distances))
    return float(alphas[best]), float(np.exp(logs[starts[best]]))


def _distance(tail: np.ndarray, alpha: float) -> float:
    """Kolmogorov-Smirnov distance of a tail of log λ/λ_min, ascending, to its power law."""
    fitted = -np.expm1((1.0 - alpha) * tail)
    return float(np.abs(fitted - np.arange(len(tail)) / len(tail)).max())


def rank_correlation(table: pd.DataFrame, *, within_type: bool = False) -> pd.DataFrame:
    """Spearman correlations between the measures of a κ table, measures × measures.

    Args:
        table: κ table with the columns ``MEASURES``.
        within_type: rank inside each module type first, which removes what the shape decides.
    """
    measures = table[MEASURES].replace([np.inf, -np.inf], np.nan)
    if within_type:
        measures = measures.groupby(table["type"]).rank(pct=True)
    return measures.corr(method="spearman")
