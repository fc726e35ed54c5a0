"""Intervals that verdicts rest on: paired seeds, shares, and a bootstrap inside seeds.

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
    """Differences of paired values, the first less the second."""

    n: int
    mean: float
    interval: tuple[float, float]  # 95 % t-interval of the mean
    narrow: tuple[float, float]  # 90 %; inside a margin it shows equivalence (two one-sided tests)
    effect: float  # mean over standard deviation, d_z; infinite without spread
    p: float  # two-sided, of the paired t-test


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
        effect = float(np.sign(mean) * np.inf) if mean else 0.0
        return Paired(len(a), mean, (mean, mean), (mean, mean), effect, 0.0 if mean else 1.0)
    test = stats.ttest_rel(a, b)
    found = (test.confidence_interval(level) for level in (LEVEL, EQUIVALENCE_LEVEL))
    wide, narrow = ((float(ends.low), float(ends.high)) for ends in found)
    return Paired(len(a), mean, wide, narrow, mean / spread, float(test.pvalue))


def decide_difference(
    first: Sequence[float],
    second: Sequence[float],
    margin: float,
    claimed: str = "lower",
    unit: str = "",
) -> Decision:
    """Verdict on "the first is ``claimed`` (``lower`` or ``higher``) than the second", by seed.

    *Holds* when the 95 % t-interval lies wholly on the claimed side, *fails* when it lies wholly
    on the other, *no relevant difference* when the 90 % interval lies inside ±``margin`` (in the
    values' ``unit``), else *undecided*; *not testable here* with fewer than three seeds.
    """
    if claimed not in ("lower", "higher"):
        raise InputError(f"a difference cannot be claimed {claimed!r}", "use lower or higher")
    if min(len(first), len(second)) < ENOUGH_SEEDS:
        return Decision(NOT_TESTABLE, n=min(len(first), len(second)), note="fewer than three seeds")
    found = paired(first, second)
    low, high = found.interval
    if high < 0 or low > 0:
        verdict = HOLDS if (high < 0) == (claimed == "lower") else FAILS
    else:
        inside = -margin < found.narrow[0] and found.narrow[1] < margin
        verdict = SAME if inside else UNDECIDED
    numbers = {"n": found.n, "effect": found.effect, "p": found.p, "narrow": found.narrow}
    return Decision(verdict, found.mean, found.interval, unit=unit, margin=margin, **numbers)


def spread_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Standard deviation of the first over that of the second: ratio, and its 95 % interval.

    For paired values, one a seed, at least three, from a normal distribution (Pitman 1939, Morgan
    1939); with three pairs it spans orders of magnitude.
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
    """Holm's step-down adjusted p-values by name (Holm 1979): they keep the family-wise error."""
    names = sorted(p_values, key=lambda name: p_values[name])
    raised = [min(1.0, (len(names) - i) * p_values[name]) for i, name in enumerate(names)]
    adjusted = dict(zip(names, np.maximum.accumulate(raised).tolist(), strict=True))
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
    the differences of their errors. A row a seed, a column an utterance or window.

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
