"""What a comparison reads and what a claim's verdict is, with the intervals that they rest on.

Seeds are the repetitions that decide; a bootstrap over utterances says how much of a number is
the choice of test utterances. Everything random here is drawn from a fixed seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass
from scipy import stats

from kappa_lib.errors import InputError


class Verdict(StrEnum):
    """The verdict on a claim, in the order in which they are counted."""

    HOLDS = "holds"
    CORRECTED = "holds with a correction"
    FAILS = "fails"
    SAME = "no relevant difference"
    UNDECIDED = "undecided"
    CONFOUNDED = "confounded"
    NOT_TESTABLE = "not testable here"
    NOT_MEASURED = "not measured"  # no notebook of a run has decided the claim
    # What a comparison reads of its first side; it may also read SAME, UNDECIDED and NOT_TESTABLE.
    LOWER = "lower"
    HIGHER = "higher"


DECIDED = (Verdict.LOWER, Verdict.HIGHER)
TOO_FEW, NOT_REACHED = "too few seeds", "not reached"
ENOUGH_SEEDS = 3
# The direction of the runs with this seed was known before the rules were written.
PILOT_SEED = 0
LEVEL, EQUIVALENCE_LEVEL = 0.95, 0.90
# Two measures decide together: each has an interval of 97.5 %, so that both cover with 95 %.
PAIR_LEVEL = 0.975
# The smallest differences that would matter to a reader: nats per token of loss or KL, and points
# of word error rate.
NATS, POINTS = 0.01, 1.0


@dataclass(frozen=True)
class Decision:
    """A reading or a verdict with the numbers that carry it."""

    verdict: Verdict
    estimate: float | None = None  # of a comparison: the first arm less the second
    interval: tuple[float, float] | None = None  # low and high at ``level``
    level: float = LEVEL
    unit: str = ""  # of estimate and interval, as "points" or "nats per token"
    n: int | None = None  # independent repetitions behind it: seeds, layers, utterances
    effect: float | None = None  # d_z, mean over standard deviation; infinite without spread
    note: str = ""  # a few words that a reader of the verdict must know
    p: float | None = None  # two-sided, for Holm's correction over primary comparisons
    narrow: tuple[float, float] | None = None  # 90 %; inside ±margin: no relevant difference
    margin: float | None = None  # in ``unit``
    parts: dict[str, "Decision"] = field(default_factory=dict)  # outcome → its own decision

    def but(self, verdict: str) -> "Decision":
        """The same numbers with another verdict."""
        return replace(self, verdict=verdict)

    def noting(self, *texts: str) -> "Decision":
        """The same with more to note."""
        return replace(self, note="; ".join(filter(None, (self.note, *texts))))


NOT_RUN = Decision(Verdict.NOT_TESTABLE, note="an arm was not run")


def together(parts: Mapping[str, Decision], claimed: Verdict = Verdict.LOWER) -> Decision:
    """The verdict on the claim that all outcomes read so; *undecided* where they do not agree.

    Asking all outcomes to agree (intersection-union) keeps the error rate of one test; p is the
    largest of the parts', or 1 where they point in opposite directions. A single part is returned
    with its numbers.
    """
    readings = {part.verdict for part in parts.values()}
    verdict = readings.pop() if len(readings) == 1 else Verdict.UNDECIDED
    if verdict in DECIDED:
        verdict = Verdict.HOLDS if verdict == claimed else Verdict.FAILS
    if len(parts) == 1:
        return next(iter(parts.values())).but(verdict)
    p = [part.p for part in parts.values()]
    if None not in p and len({np.sign(part.estimate) for part in parts.values()}) > 1:
        p = [1.0]
    return Decision(
        verdict,
        n=min((part.n for part in parts.values() if part.n is not None), default=None),
        p=None if None in p else max(p),
        note=next((part.note for part in parts.values() if part.note), ""),
        parts=dict(parts),
    )


def unless_confounded(decision: Decision, apart: Mapping[str, str]) -> Decision:
    """The decision, or *confounded* where it says anything while something else is ``apart``, too,
    which can hide a difference as well as make one."""
    if not apart:
        return decision
    told = ", ".join(f"{what} {how}" for what, how in apart.items())
    decided = (Verdict.HOLDS, Verdict.CORRECTED, Verdict.FAILS, Verdict.SAME)
    found = decision.but(Verdict.CONFOUNDED) if decision.verdict in decided else decision
    return found.noting(f"first arm's {told}")


def decide_difference(differences: Sequence[float], margin: float, unit: str = "") -> Decision:
    """Whether what was measured once per seed lies below or above zero: the paired t-test.

    *Lower* and *higher* where the 95 % t-interval of the mean (Student 1908) lies wholly on one
    side of zero, *no relevant difference* where the 90 % interval lies inside ±``margin`` (in the
    values' ``unit``; two one-sided tests, Schuirmann 1987), else *undecided*; *not testable here*
    with fewer than three seeds. InputError where a value is not finite.
    """
    values = np.asarray(differences, float)
    if len(values) < ENOUGH_SEEDS:
        return Decision(Verdict.NOT_TESTABLE, n=len(values), note=TOO_FEW)
    if not np.isfinite(values).all():
        raise InputError("differences hold NaN or infinity", "find where they came from")
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    # Differences that are equal up to rounding have no spread to test against.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        wide = narrow = (mean, mean)
        effect, p = float(np.sign(mean) * np.inf) if mean else 0.0, 0.0 if mean else 1.0
    else:
        test = stats.ttest_1samp(values, 0.0)
        found = (test.confidence_interval(level) for level in (LEVEL, EQUIVALENCE_LEVEL))
        wide, narrow = ((float(ends.low), float(ends.high)) for ends in found)
        effect, p = mean / spread, float(test.pvalue)
    if wide[1] < 0 or wide[0] > 0:
        reading = Verdict.LOWER if wide[1] < 0 else Verdict.HIGHER
    else:
        inside = -margin < narrow[0] and narrow[1] < margin
        reading = Verdict.SAME if inside else Verdict.UNDECIDED
    numbers = {"n": len(values), "effect": effect, "p": p, "narrow": narrow, "margin": margin}
    return Decision(reading, mean, wide, unit=unit, **numbers)


def decisive(values: pd.Series) -> tuple[pd.Series, str]:
    """Of values (or a frame's rows) by seed those that decide, and a note on the pilot, which is
    left out beside three others."""
    others = values[values.index != PILOT_SEED]
    if len(others) == len(values):
        return values, ""
    if len(others) >= ENOUGH_SEEDS:
        return others, f"pilot seed {PILOT_SEED} left out"
    return values, f"with pilot seed {PILOT_SEED}"


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values by name (Holm 1979): they keep the family-wise error."""
    names = sorted(p_values, key=lambda name: p_values[name])
    raised = [min(1.0, (len(names) - i) * p_values[name]) for i, name in enumerate(names)]
    adjusted = dict(zip(names, np.maximum.accumulate(raised).tolist(), strict=True))
    return {name: adjusted[name] for name in p_values}


def interval(estimate: float, low: float, high: float, digits: int) -> str:
    """``+0.14 [-4.01, +4.29]``; the estimate alone where there is no interval (NaN)."""
    # Adding zero turns what rounds to -0 into 0.
    shown = [f"{round(x, digits) + 0.0:+.{digits}f}" for x in (estimate, low, high)]
    return shown[0] if math.isnan(low) else f"{shown[0]} [{shown[1]}, {shown[2]}]"


@dataclass(frozen=True)
class Interval:
    """An estimate with the interval of ``n`` units."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def ends(self) -> tuple[float, float, float]:
        """Estimate, low, high."""
        return self.estimate, self.low, self.high

    def reading(self, above: float, below: float, either_way: bool = False) -> Verdict:
        """*Higher* where it lies above the one bound, *lower* where below the other; ``either_way``
        *lower* below -``above``, *no relevant difference* inside ±``below``."""
        if self.low > above:
            return Verdict.HIGHER
        if self.high < (-above if either_way else below):
            return Verdict.LOWER
        small = either_way and -below < self.low and self.high < below
        return Verdict.SAME if small else Verdict.UNDECIDED

    def text(self, digits: int = 2) -> str:
        """For instance ``+0.41 [+0.20, +0.58]``."""
        return interval(*self.ends, digits)


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
    the differences of their errors. A row per seed, a column per utterance or window; InputError
    where a seed has another number of them.
    """
    try:
        top, bottom = np.array(numerators, float), np.array(denominators, float)
    except ValueError as error:
        raise InputError("ragged values to resample", "test every seed on the same") from error
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
    return Interval(estimate, float(low), float(high), units)


def bootstrap_mean(values: Sequence[Sequence[float]], **options: float) -> Interval:
    """:func:`bootstrap_ratio` of a mean: a row per seed, a column per utterance or window."""
    return bootstrap_ratio(values, [[1.0] * len(row) for row in values], **options)
