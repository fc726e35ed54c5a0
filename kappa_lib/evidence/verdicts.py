"""Verdicts, the intervals that they rest on, and the registry of rules: claim id → function.

Seeds are the repetitions that decide; a bootstrap over utterances says how much of a number is
the choice of test utterances. Everything random here is drawn from a fixed seed.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from kappa_lib.errors import InputError

HOLDS = "holds"
CORRECTED = "holds with a correction"
FAILS = "fails"
SAME = "no relevant difference"
UNDECIDED = "undecided"
CONFOUNDED = "confounded"
NOT_TESTABLE = "not testable here"
VERDICTS = (HOLDS, CORRECTED, FAILS, SAME, UNDECIDED, CONFOUNDED, NOT_TESTABLE)
NOT_MEASURED = "not measured"  # no notebook of a run has handed numbers to the rule

# How far a verdict reaches: mathematics checked here, the model that was measured at this size,
# or a unit built to show the point.
PROVED, THIS_MODEL, TOY = "proved", "this model", "toy"
SCALES = (PROVED, THIS_MODEL, TOY)

ENOUGH_SEEDS = 3
# The direction of the runs with this seed was known before the rules were written.
PILOT_SEED = 0
LEVEL, EQUIVALENCE_LEVEL = 0.95, 0.90
# The smallest differences that would matter to a reader: nats a token of loss or KL, and points
# of word error rate.
NATS, POINTS = 0.01, 1.0


@dataclass(frozen=True)
class Decision:
    """A verdict with the numbers that carry it."""

    verdict: str  # one of VERDICTS
    estimate: float | None = None  # of a comparison: the first arm less the second
    interval: tuple[float, float] | None = None  # low and high at ``level``
    level: float = LEVEL
    unit: str = ""  # of estimate and interval, as "points" or "nats a token"
    n: int | None = None  # independent repetitions behind it: seeds, layers, utterances
    effect: float | None = None  # d_z, mean over standard deviation; infinite without spread
    note: str = ""  # one short sentence that a reader of the verdict must know
    p: float | None = None  # two-sided, for Holm's correction over primary comparisons
    narrow: tuple[float, float] | None = None  # 90 %; inside ±margin: no relevant difference
    margin: float | None = None  # in ``unit``
    parts: Mapping[str, "Decision"] = field(default_factory=dict)  # outcome → its own decision

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"there is no verdict {self.verdict!r}", f"use one of {VERDICTS}")


def together(parts: Mapping[str, Decision]) -> Decision:
    """One decision on a claim about several outcomes: theirs where they agree, else *undecided*.

    Asking all outcomes to agree (intersection-union) keeps the error rate of one test; p is the
    largest of the parts', or 1 where they point in opposite directions.
    """
    found = {part.verdict for part in parts.values()}
    p = [part.p for part in parts.values()]
    if None not in p and len({np.sign(part.estimate) for part in parts.values()}) > 1:
        p = [1.0]
    return Decision(
        found.pop() if len(found) == 1 else UNDECIDED,
        n=min((part.n for part in parts.values() if part.n is not None), default=None),
        p=None if None in p else max(p),
        note=next((part.note for part in parts.values() if part.note), ""),
        parts=dict(parts),
    )


def notes(*texts: str) -> str:
    """Those that say something, one after another."""
    return "; ".join(filter(None, texts))


def decide_difference(
    first: Sequence[float],
    second: Sequence[float],
    margin: float,
    claimed: str = "lower",
    unit: str = "",
) -> Decision:
    """Verdict on "the first is ``claimed`` (``lower`` or ``higher``) than the second", by seed.

    Rests on the paired t-test (Student 1908). *Holds* when the 95 % t-interval of the mean
    difference lies wholly on the claimed side, *fails* when it lies wholly on the other, *no
    relevant difference* when the 90 % interval lies inside ±``margin`` (in the values' ``unit``;
    two one-sided tests, Schuirmann 1987), else *undecided*; *not testable here* with fewer than
    three seeds. Both hold a value a seed, in the same order; InputError where their lengths differ
    or one is not finite.
    """
    if claimed not in ("lower", "higher"):
        raise InputError(f"a difference cannot be claimed {claimed!r}", "use lower or higher")
    if min(len(first), len(second)) < ENOUGH_SEEDS:
        return Decision(NOT_TESTABLE, n=min(len(first), len(second)), note="fewer than three seeds")
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(
            f"{a.shape} and {b.shape} values to pair", "give two lists of the same seeds"
        )
    if not np.isfinite([a, b]).all():
        raise InputError("values to pair hold NaN or infinity", "find where they came from")
    mean, spread = float((a - b).mean()), float((a - b).std(ddof=1))
    # Differences that are equal up to rounding have no spread to test against.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        wide = narrow = (mean, mean)
        effect, p = float(np.sign(mean) * np.inf) if mean else 0.0, 0.0 if mean else 1.0
    else:
        test = stats.ttest_rel(a, b)
        found = (test.confidence_interval(level) for level in (LEVEL, EQUIVALENCE_LEVEL))
        wide, narrow = ((float(ends.low), float(ends.high)) for ends in found)
        effect, p = mean / spread, float(test.pvalue)
    if wide[1] < 0 or wide[0] > 0:
        verdict = HOLDS if (wide[1] < 0) == (claimed == "lower") else FAILS
    else:
        verdict = SAME if -margin < narrow[0] and narrow[1] < margin else UNDECIDED
    numbers = {"n": len(a), "effect": effect, "p": p, "narrow": narrow, "margin": margin}
    return Decision(verdict, mean, wide, unit=unit, **numbers)


def decisive(seeds: Sequence[int]) -> tuple[list[int], str]:
    """The seeds that decide, and a note on the pilot: left out where three others are there."""
    others = [seed for seed in seeds if seed != PILOT_SEED]
    if len(others) == len(seeds):
        return list(seeds), ""
    if len(others) >= ENOUGH_SEEDS:
        return others, f"pilot seed {PILOT_SEED} left out"
    return list(seeds), f"with pilot seed {PILOT_SEED}"


def same_seeds(first: dict[str, Any], second: dict[str, Any], key: str) -> tuple[list, list, str]:
    """Values of both arms for their common decisive seeds, and the note on the pilot.

    InputError where an arm has not one value a seed.
    """
    if any(len(arm[key]) != len(arm["seeds"]) for arm in (first, second)):
        raise InputError(f"{key!r} has not one value a seed", "measure every seed")
    a, b = (dict(zip(arm["seeds"], arm[key], strict=True)) for arm in (first, second))
    common, note = decisive([seed for seed in a if seed in b])
    return [a[s] for s in common], [b[s] for s in common], note


def spread_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Standard deviation of the first over that of the second: ratio, and its 95 % interval.

    For paired values, one a seed, at least three, from a normal distribution (Pitman 1939, Morgan
    1939); with three pairs it spans orders of magnitude. InputError where a side does not vary.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if not a.std() or not b.std():
        raise InputError("spreads cannot be compared", "give values that vary")
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
    the differences of their errors. A row a seed, a column an utterance or window; InputError
    where shapes differ, are empty or ragged.
    """
    try:
        top, bottom = np.array(numerators, float), np.array(denominators, float)
    except ValueError as error:
        raise InputError("ragged values to resample", "test every seed on the same") from error
    if top.ndim != 2 or top.shape != bottom.shape or not top.size:
        raise InputError(f"{top.shape} over {bottom.shape} to resample", "give seeds × utterances")
    rng = np.random.default_rng(seed)
    seeds, units = top.shape
    drawn = rng.integers([seeds] * seeds + [units] * units, size=(resamples, seeds + units))
    rows, columns = drawn[:, :seeds], drawn[:, seeds:] + units * np.arange(resamples)[:, None]
    times = np.bincount(columns.ravel(), minlength=resamples * units).reshape(resamples, units)
    ratios = (times @ top.T) / (times @ bottom.T)  # (resamples, seeds)
    drawn = np.take_along_axis(ratios, rows, axis=1).mean(axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    estimate = float((top.sum(1) / bottom.sum(1)).mean())
    return Interval(estimate, float(low), float(high), level, units)


def bootstrap_mean(values: Sequence[Sequence[float]], **options: float) -> Interval:
    """:func:`bootstrap_ratio` of a mean: a row a seed, a column an utterance or window."""
    return bootstrap_ratio(values, [[1.0] * len(row) for row in values], **options)


Rule = Callable[..., Decision | str]
RULES: dict[str, Rule] = {}


def decides(claim_id: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of a claim.

    The function takes the measured numbers by name and returns a :class:`Decision`, or the bare
    verdict where there is no estimate (an identity that is checked to rounding).
    """

    def register(rule: Rule) -> Rule:
        if claim_id in RULES:
            raise InputError(f"claim {claim_id!r} has two rules", "give each claim one rule")
        RULES[claim_id] = rule
        return rule

    return register


def numbers_of(rule: Rule) -> list[str]:
    """Names of the measured numbers that a rule reads."""
    return list(inspect.signature(rule).parameters)
