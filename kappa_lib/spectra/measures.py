"""What κ is held against: other tools' spectral measures, and the volume that κ stands for.

Functions of a spectrum take ``s``, shape (k,), descending; the others take a κ table.
"""

import math

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from kappa_lib.errors import InputError

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
# Tails fitted together: few enough for their numbers to stay in the cache.
_TAILS_AT_ONCE = 32
# Interquartile range of a standard normal variable, as Spectrum rounds it.
_IQR = 1.349


def spectrum_snr(s: np.ndarray, shape: tuple[int, int]) -> float:
    """Spectrum's signal-to-noise ratio of a weight matrix (Hartford et al., arXiv 2406.06623).

    The noise level is estimated from the interquartile range of the singular values, the edge
    (1+√β) times that parts signal from noise, and the ratio of their sums is divided by σ₁. The
    edge lacks a factor √n that the Marchenko-Pastur law has; this is the published definition.

    Infinite where nothing is left below the edge.
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
    best = int(np.argmin(_distances(logs, starts, alphas)))
    return float(alphas[best]), float(np.exp(logs[starts[best]]))


def _distances(logs: np.ndarray, starts: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance of the tail from each start to its power law, (len(starts),).

    ``logs`` are log λ, ascending, (n,); a tail begins at the index ``starts``.
    """
    found = np.empty(len(starts))
    places = np.arange(len(logs))
    for first in range(0, len(starts), _TAILS_AT_ONCE):
        part = slice(first, first + _TAILS_AT_ONCE)
        begin, lowest = starts[part, None], starts[first]
        tails = logs[lowest:] - logs[begin]
        seen = (places[lowest:] - begin) / (len(logs) - begin)
        gaps = np.abs(-np.expm1((1.0 - alphas[part, None]) * np.maximum(tails, 0.0)) - seen)
        # What lies before a tail's start is no part of it.
        found[part] = np.where(seen >= 0, gaps, 0.0).max(axis=1)
    return found


def rank_correlation(table: pd.DataFrame, *, within_type: bool = False) -> pd.DataFrame:
    """Spearman correlations between the ``MEASURES`` of a κ table, measures × measures.

    Ranked ``within_type`` first they are free of what the shape decides.
    """
    measures = table[MEASURES].replace([np.inf, -np.inf], np.nan)
    if within_type:
        measures = measures.groupby(table["type"]).rank(pct=True)
    return measures.corr(method="spearman")


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    if len(table) < 2:
        raise InputError(f"a κ table of {len(table)} rows", "statistics need at least two tensors")
    return table


def explained_by_type(table: pd.DataFrame) -> float:
    """Share of the variance of log κ that lies between module types, in [0, 1]."""
    logs = np.log(_checked(table)["kappa"])
    between = logs.groupby(table["type"]).transform("mean")
    return float(((between - logs.mean()) ** 2).sum() / ((logs - logs.mean()) ** 2).sum())


def volume_loss(table: pd.DataFrame) -> pd.Series:
    """AM–GM gap of each tensor per singular value: what its spectrum lacks of Theorem 1, in nats.

    1/2 log(C/k) - V/k with C = ‖W‖_F², V of eq. (8) and k the rank: free of scale and of size,
    and zero only at κ = 1.
    """
    k = np.minimum(table["rows"], table["cols"]) - table["rank_deficiency"]
    return 0.5 * np.log(table["frobenius"] ** 2 / k) - table["log_volume"] / k


def kappa_against_volume(table: pd.DataFrame) -> tuple[float, float]:
    """Spearman's correlation of κ with the volume lost: over all tensors, and within types.

    The second is the mean over types of the correlation inside each, weighted by its tensors.
    """
    pairs = _checked(table).assign(loss=volume_loss(table))[["type", "kappa", "loss"]]
    groups = [group for _, group in pairs.groupby("type") if len(group) > 2]
    if not groups:
        raise InputError("no module type has three tensors", "give a table of several layers")
    overall = float(spearmanr(pairs["kappa"], pairs["loss"]).statistic)
    within = [float(spearmanr(group["kappa"], group["loss"]).statistic) for group in groups]
    return overall, float(np.average(within, weights=[len(group) for group in groups]))
