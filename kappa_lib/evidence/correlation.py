"""Rank correlation within module types, whose interval and p take whole layers as the units."""

import numpy as np
import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import PAIR_LEVEL, Interval


def within_types(
    table: pd.DataFrame,
    predictor: str,
    outcome: str,
    level: float = PAIR_LEVEL,
    beside_layer: bool = False,
    resamples: int = 2000,
    permutations: int = 20_000,
) -> Interval:
    """Spearman's ρ of two columns within module types: bootstrap over layers, permutation p.

    A row is a tensor (or head) with its ``type`` and ``layer``; where a value is missing it is left
    out. Ranks are taken within types, so that differences between these do not count;
    ``beside_layer`` partials the layer's out of both. Layers are resampled whole, for a percentile
    interval that covers ``level``. p is at least 1/(permutations + 1), which Holm's correction
    multiplies.

    Returns:
        ρ, its interval, the two-sided permutation p, and the number of layers as ``n``. Under
        permutation whole layers trade their outcomes where every type has each layer once, so
        that what a layer's tensors share stays together; else these are shuffled within types.

    Raises:
        InputError: fewer than three values, or no spread in one of the columns.
    """
    rows = table.dropna(subset=[predictor, outcome])
    if len(rows) < 3:
        raise InputError(f"{len(rows)} values to correlate", "give ≥ 3")
    types = np.unique(rows["type"], return_inverse=True)[1]
    layers = rows["layer"].to_numpy(float)
    values = [rows[name].to_numpy(float) for name in (predictor, outcome)]
    values += [layers] if beside_layer else []
    ranks = [_ranks(v, types, np.ones((1, len(rows)))) for v in values]
    estimate = float(_correlations(*ranks)[0])
    if np.isnan(estimate):
        raise InputError("values to correlate have no spread", "leave them out")
    rng = np.random.default_rng(0)
    # A resample is how often it holds each layer, and so each value.
    found, own = np.unique(layers, return_inverse=True)
    picked = rng.integers(len(found), size=(resamples, len(found)))
    times = (picked[:, :, None] == np.arange(len(found))).sum(axis=1)[:, own]
    drawn = _correlations(*(_ranks(v, types, times) * np.sqrt(times) for v in values))
    tail = 50 * (1 - level)
    low, high = (float(x) for x in np.nanpercentile(drawn, [tail, 100 - tail]))
    # Within a type a permutation of values is one of their ranks, which are taken once.
    first, second, *third = ranks
    shuffled = second[0, _shuffles(layers, types, permutations, rng)]
    extreme = np.abs(_correlations(first, shuffled, *third)) >= abs(estimate) - 1e-12
    p = (int(extreme.sum()) + 1) / (permutations + 1)
    return Interval(estimate, low, high, level, len(found), p)


def _ranks(values: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Ranks (resamples, n) of values (n,) within groups, centred and each group on the same scale.

    A resample holds each value so many ``times`` (resamples, n); equal values share their mean
    rank.
    """
    ranks = np.empty(times.shape)
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        _, place, copies = np.unique(values[inside], return_inverse=True, return_counts=True)
        order = inside[np.argsort(place, kind="stable")]
        equal = np.add.reduceat(times[:, order], np.cumsum(copies) - copies, axis=1)
        total = equal.sum(axis=1, keepdims=True)
        rank = np.cumsum(equal, axis=1) - equal + (equal + 1) / 2
        ranks[:, inside] = ((rank - (total + 1) / 2) / np.maximum(total, 1))[:, place]
    return ranks


def _correlations(x: np.ndarray, y: np.ndarray, control: np.ndarray | None = None) -> np.ndarray:
    """Pearson's correlation along the last axis, without the control's part; NaN without spread."""

    def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("...i,...i->...", a, b)

    if control is not None:
        size = np.maximum(inner(control, control), 1e-12)
        x, y = (v - (inner(v, control) / size)[..., None] * control for v in (x, y))
    size = np.sqrt(inner(x, x) * inner(y, y))
    return np.where(size > 1e-12, inner(x, y) / np.where(size > 1e-12, size, 1.0), np.nan)


def _shuffles(
    layers: np.ndarray, types: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Positions of the outcomes under ``count`` permutations, (count, n)."""
    order, found = np.lexsort((layers, types)), np.unique(layers)
    positions = np.tile(np.arange(len(order)), (count, 1))
    size = len(np.unique(types)), len(found)
    if len(order) == np.prod(size) and (layers[order].reshape(size) == found).all():
        grid = order.reshape(size)
        traded = rng.permuted(np.tile(np.arange(len(found)), (count, 1)), axis=1)
        positions[:, grid] = grid[:, traded].swapaxes(0, 1)
        return positions
    for kind in np.unique(types):
        inside = np.flatnonzero(types == kind)
        positions[:, inside] = rng.permuted(positions[:, inside], axis=1)
    return positions
