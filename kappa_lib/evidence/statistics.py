"""Intervals that verdicts rest on: paired seeds, bootstrap inside seeds, rank correlations.

Seeds are the repetitions that decide; a bootstrap over utterances says how much of a number is
the choice of test utterances. Everything random here is drawn from a fixed seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import FAILS, HOLDS, NOT_TESTABLE, SAME, UNDECIDED, Decision

ENOUGH_SEEDS = 3
LEVEL, EQUIVALENCE_LEVEL = 0.95, 0.90
# The smallest differences that would matter to a reader: nats a token of loss or KL, and points
# of word error rate.
NATS, POINTS = 0.01, 1.0


@dataclass(frozen=True)
class Paired:
    """Differences of paired values, the first less the second.

    Attributes:
        n: pairs.
        mean: mean difference.
        interval: 95 % t-interval of it.
        narrow: 90 % t-interval; inside a margin it shows equivalence (two one-sided tests).
        effect: mean over standard deviation of the differences, d_z; infinite without spread.
        p: two-sided p of the paired t-test.
    """

    n: int
    mean: float
    interval: tuple[float, float]
    narrow: tuple[float, float]
    effect: float
    p: float


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Paired t-test with its intervals (Student 1908; equivalence: Schuirmann 1987).

    Args:
        first: values, one a seed, at least two.
        second: values of the same seeds in the same order.

    Raises:
        InputError: lengths that differ, fewer than two pairs, or NaN.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise InputError(f"{a.shape} and {b.shape} values to pair", "give two lists of ≥ 2 seeds")
    if not np.isfinite([a, b]).all():
        raise InputError("values to pair hold NaN or infinity", "find where they came from")
    difference = a - b
    mean, spread = float(difference.mean()), float(difference.std(ddof=1))
    # Differences that are equal up to rounding have no spread to test against.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        exact = (mean, mean)
        return Paired(
            len(a),
            mean,
            exact,
            exact,
            float(np.sign(mean) * np.inf) if mean else 0.0,
            0.0 if mean else 1.0,
        )
    test = stats.ttest_rel(a, b)
    wide, narrow = (test.confidence_interval(level) for level in (LEVEL, EQUIVALENCE_LEVEL))
    return Paired(
        n=len(a),
        mean=mean,
        interval=(float(wide.low), float(wide.high)),
        narrow=(float(narrow.low), float(narrow.high)),
        effect=mean / spread,
        p=float(test.pvalue),
    )


def decide_difference(
    first: Sequence[float],
    second: Sequence[float],
    margin: float,
    claimed: str = "lower",
    unit: str = "",
) -> Decision:
    """Verdict on "the first is ``claimed`` than the second", paired by seed.

    *Holds* when the 95 % t-interval lies wholly on the claimed side, *fails* when it lies wholly
    on the other, *no relevant difference* when the 90 % interval lies inside ±``margin``, else
    *undecided*; *not testable here* with fewer than three seeds.

    Args:
        first: values, one a seed.
        second: values of the same seeds in the same order.
        margin: the smallest difference that would matter, in the unit of the values.
        claimed: ``lower`` or ``higher``.
        unit: said beside the estimate.
    """
    if claimed not in ("lower", "higher"):
        raise InputError(f"a difference cannot be claimed {claimed!r}", "use lower or higher")
    if min(len(first), len(second)) < ENOUGH_SEEDS:
        return Decision(NOT_TESTABLE, n=min(len(first), len(second)), note="fewer than three seeds")
    found = paired(first, second)
    low, high = found.interval
    below, above = high < 0, low > 0
    if below or above:
        verdict = HOLDS if below == (claimed == "lower") else FAILS
    else:
        inside = -margin < found.narrow[0] and found.narrow[1] < margin
        verdict = SAME if inside else UNDECIDED
    return Decision(
        verdict,
        estimate=found.mean,
        interval=found.interval,
        unit=unit,
        n=found.n,
        effect=found.effect,
        p=found.p,
        narrow=found.narrow,
        margin=margin,
    )


def spread_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Standard deviation of the first over that of the second, with its 95 % interval.

    For paired values from a normal distribution (Pitman 1939, Morgan 1939); with three pairs it
    spans orders of magnitude.

    Args:
        first: values, one a seed, at least three.
        second: values of the same seeds in the same order.

    Returns:
        Ratio, low, high.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if len(a) != len(b) or len(a) < ENOUGH_SEEDS or not a.std() or not b.std():
        raise InputError("spreads cannot be compared", "give ≥ 3 pairs of values that vary")
    ratio = a.var(ddof=1) / b.var(ddof=1)
    unexplained = 1 - np.corrcoef(a, b)[0, 1] ** 2
    t = stats.t.ppf((1 + LEVEL) / 2, len(a) - 2)
    k = 1 + 2 * unexplained * t**2 / (len(a) - 2)
    width = k + np.sqrt(k**2 - 1)
    return float(np.sqrt(ratio)), float(np.sqrt(ratio / width)), float(np.sqrt(ratio * width))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979), which keep the family-wise error rate.

    Args:
        p_values: name -> p.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Clopper and Pearson 1934); all of [0, 1] without trials."""
    if not trials:
        return 0.0, 1.0
    found = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at ``level``, and p where it was tested; ``n`` units."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    p: float | None = None


def bootstrap_ratio(
    numerators: Sequence[Sequence[float]],
    denominators: Sequence[Sequence[float]],
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of Σ numerators / Σ denominators, averaged over seeds.

    Seeds and utterances are both resampled, the utterances the same way in every seed, since all
    seeds are tested on the same ones (Owen 2007, "The pigeonhole bootstrap"). For a word error
    rate give errors and reference words of each utterance; for the difference of two arms give
    the differences of their errors.

    Args:
        numerators: a row a seed, a column an utterance or window.
        denominators: the same shape.
        level: coverage.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        InputError: shapes that differ, are empty or ragged.
    """
    try:
        top, bottom = np.array(numerators, float), np.array(denominators, float)
    except ValueError as error:
        raise InputError("ragged values to resample", "test every seed on the same") from error
    if top.ndim != 2 or top.shape != bottom.shape or not top.size:
        raise InputError(f"{top.shape} over {bottom.shape} to resample", "give seeds × utterances")
    rng = np.random.default_rng(seed)
    seeds, units = top.shape
    drawn = np.empty(resamples)
    for i in range(resamples):
        rows, columns = rng.integers(seeds, size=seeds), rng.integers(units, size=units)
        picked = np.ix_(rows, columns)
        drawn[i] = (top[picked].sum(1) / bottom[picked].sum(1)).mean()
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    estimate = float((top.sum(1) / bottom.sum(1)).mean())
    return Interval(estimate, float(low), float(high), level, units)


def bootstrap_mean(values: Sequence[Sequence[float]], **options: float) -> Interval:
    """:func:`bootstrap_ratio` of a mean: a row a seed, a column an utterance or window."""
    return bootstrap_ratio(values, [[1.0] * len(row) for row in values], **options)


def spearman_interval(
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[int],
    strata: Sequence[str] | None = None,
    control: Sequence[float] | None = None,
    level: float = LEVEL,
    resamples: int = 2000,
    permutations: int = 20_000,
    seed: int = 0,
) -> Interval:
    """Spearman's ρ with a bootstrap interval over clusters and a permutation p.

    Args:
        x: values, one a tensor (or head).
        y: values of the same tensors.
        clusters: what is resampled whole, as the layer of each.
        strata: ranks are taken within each of these (module types), so that differences between
            them do not count; all together if None.
        control: a quantity whose ranks are partialled out of both, as the layer.
        level: coverage of the percentile interval.
        resamples: bootstrap draws.
        permutations: p is at least 1/(permutations + 1), which Holm's correction multiplies.
        seed: of both.

    Returns:
        ρ, its interval, the two-sided permutation p, and the number of clusters as ``n``. Under
        permutation whole clusters trade their y where every stratum has each cluster once, so
        that what a layer's tensors share stays together; else y is shuffled within strata.

    Raises:
        InputError: lengths that differ, fewer than three values, or no spread in x or y.
    """
    x, y, clusters = np.asarray(x, float), np.asarray(y, float), np.asarray(clusters)
    groups = np.zeros(len(x), int) if strata is None else np.unique(strata, return_inverse=True)[1]
    other = None if control is None else np.asarray(control, float)
    if not len(x) == len(y) == len(clusters) == len(groups) or len(x) < 3:
        raise InputError(f"{len(x)} and {len(y)} values to correlate", "give ≥ 3 of each")
    estimate = float(_correlations(*_ranks(groups, x, y, other)))
    if np.isnan(estimate):
        raise InputError("values to correlate have no spread", "leave them out")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    drawn = np.empty(resamples)
    for i in range(resamples):
        picked = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        part = None if other is None else other[picked]
        drawn[i] = _correlations(*_ranks(groups[picked], x[picked], y[picked], part))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    # Within a stratum a permutation of values is one of their ranks, which are taken once.
    first, second, third = _ranks(groups, x, y, other)
    shuffled = _correlations(first, second[_shuffles(clusters, groups, permutations, rng)], third)
    extreme = int((np.abs(shuffled) >= abs(estimate) - 1e-12).sum())
    p = (extreme + 1) / (permutations + 1)
    return Interval(estimate, float(low), float(high), level, len(members), p)


def _ranks(
    groups: np.ndarray, x: np.ndarray, y: np.ndarray, control: np.ndarray | None
) -> list[np.ndarray]:
    """Ranks of each within groups, centred and each group on the same scale; zeros without one."""
    columns = [x, y, np.zeros(len(x)) if control is None else control]
    ranks = [np.zeros(len(x)) for _ in columns]
    for group in np.unique(groups):
        inside = groups == group
        for row, values in zip(ranks, columns, strict=True):
            ranked = stats.rankdata(values[inside])
            row[inside] = (ranked - ranked.mean()) / len(ranked)
    return ranks


def _correlations(x: np.ndarray, y: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Pearson's correlation of x (n,) with each row of y (..., n), without the control's part."""
    if control.any():
        along = control / np.sqrt(control @ control)
        x, y = x - (x @ along) * along, y - (y @ along)[..., None] * along
    size = np.sqrt((x @ x) * (y * y).sum(-1))
    return np.where(size > 1e-12, y @ x / np.where(size > 1e-12, size, 1.0), np.nan)


def _shuffles(
    clusters: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Positions of y under ``count`` permutations, (count, n)."""
    order = np.lexsort((clusters, groups))
    kinds, layers = len(np.unique(groups)), len(np.unique(clusters))
    positions = np.tile(np.arange(len(order)), (count, 1))
    if len(order) == kinds * layers and (
        clusters[order].reshape(kinds, layers) == np.unique(clusters)
    ).all(axis=None):
        traded = rng.permuted(np.tile(np.arange(layers), (count, 1)), axis=1)
        positions[:, order] = (
            order.reshape(kinds, layers)[:, traded].swapaxes(0, 1).reshape(count, -1)
        )
        return positions
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        positions[:, inside] = rng.permuted(positions[:, inside], axis=1)
    return positions
