"""How claims about measurements are decided, as ``data/claims.yaml`` declares it for each.

Most compare arms or correlate columns. Last come the rules that need code of their own: the paper's
Figure 1, the new modality, and disruption.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator

from kappa_lib.evidence import compare, encoding, verdicts
from kappa_lib.evidence.runs import Runs, runs_for
from kappa_lib.evidence.verdicts import Decision, Interval, Verdict, decide_difference, together
from kappa_lib.profiles import Profile
from kappa_lib.spectra.kappa_table import with_volume


class Comparison(BaseModel, frozen=True, extra="forbid"):
    """Two arms, seed by seed: the claim is that the first is lower in all outcomes, by the rule of
    comparisons at the head of ``claims.yaml``."""

    # The profile whose committed runs decide for their model; another model's own runs decide for
    # it. Left out: the runs at hand.
    runs: str | None = None
    # The first of which both arms were run is compared.
    pairs: list[Annotated[compare.Pair, BeforeValidator(tuple)]]
    every: bool = False  # or all of them, which must agree, by Holm over the pairs
    outcomes: list[str]  # see :mod:`kappa_lib.evidence.compare`
    margin: float | None = None  # of equivalence; left out: a point of WER, 0.01 nats per token
    held: list[Literal["parameters", "types", "layers", "training loss", "draws"]] = []

    def decide(self, profile: Profile) -> Decision:
        """The verdict, *confounded* where it decides while something else differs."""
        found = runs_for(self.runs, profile)
        ran = compare.pairs_of(found, self.pairs)
        if not ran or (self.every and len(ran) < len(self.pairs)):
            return verdicts.NOT_RUN
        pairs = ran if self.every else ran[:1]
        each = {
            pair: {o: compare.decide(found, pair, o, self.margin) for o in self.outcomes}
            for pair in pairs
        }
        parts = each[pairs[0]] if len(pairs) == 1 else _by_holm(each)
        unlike = (compare.unlike(found, pair, self.held) for pair in pairs)
        apart = {name: how for of in unlike for name, how in of.items()}
        return verdicts.unless_confounded(together(parts), apart)


def _by_holm(each: Mapping[compare.Pair, Mapping[str, Decision]]) -> dict[str, Decision]:
    """Parts of all pairs; where a pair's p (of all its outcomes :func:`together`), corrected, may
    be chance, its readings are undecided."""
    named = {compare.name_of(pair): of for pair, of in each.items()}
    p = {name: together(of).p for name, of in named.items()}
    corrected, parts = verdicts.holm({name: x for name, x in p.items() if x is not None}), {}
    for name, of in named.items():
        chance = corrected.get(name, 1.0) >= 1 - verdicts.LEVEL
        for outcome, part in of.items():
            decided = part.verdict in verdicts.DECIDED and chance
            parts[f"{name}, {outcome}"] = part.but(Verdict.UNDECIDED) if decided else part
    return parts


class Correlation(BaseModel, frozen=True, extra="forbid"):
    """Spearman's ρ of a column with others, within module types, against a band."""

    table: Literal["encoding", "kappa"]  # the committed encoding study, or the κ table at hand
    of: str
    outcomes: list[str]
    above: float  # an interval above it supports the claim
    below: float  # one below it refutes it
    level: float = 0.95
    # Outcomes that, supported alone while the others are refuted, leave a corrected claim.
    corrected: list[str] = []
    # Intervals below -``above`` correct the claim, and only one inside ±``below`` refutes it.
    either_way: bool = False

    def decide(self, profile: Profile) -> Decision:
        """The verdict on what κ goes with within module types."""
        if self.table == "kappa":
            table = with_volume(pd.read_csv(profile.folder / "kappa.csv"))
        elif (table := encoding.of_model(profile.model)) is None:
            return Decision(Verdict.NOT_TESTABLE, note="not measured for this model")
        found = (encoding.within_types(table, self.of, o, self.level) for o in self.outcomes)
        return self.read(dict(zip(self.outcomes, found, strict=True)))

    def read(self, found: Mapping[str, Interval]) -> Decision:
        """:meth:`decide`, from the intervals of the outcomes."""
        readings = {
            name: rho.reading(self.above, self.below, self.either_way)
            for name, rho in found.items()
        }
        said = set(readings.values())
        supported = {name for name, reading in readings.items() if reading == Verdict.HIGHER}
        in_part = said == {Verdict.HIGHER, Verdict.LOWER} and supported <= set(self.corrected)
        verdict = Verdict.UNDECIDED
        if said == {Verdict.HIGHER}:
            verdict = Verdict.HOLDS
        elif in_part or (self.either_way and said == {Verdict.LOWER}):
            verdict = Verdict.CORRECTED
        elif said in ({Verdict.LOWER}, {Verdict.SAME}):
            verdict = Verdict.FAILS
        unit = "Spearman's ρ"
        parts = {
            name: Decision(readings[name], rho.estimate, rho.ends[1:], self.level, unit, rho.n)
            for name, rho in found.items()
        }
        first = next(iter(parts.values()))
        if len(parts) == 1:
            return first.but(verdict)
        return Decision(verdict, level=self.level, n=first.n, parts=parts)


class Code(BaseModel, frozen=True, extra="forbid"):
    """One of the ``RULES`` below."""

    code: str
    runs: str | None = None  # as of :class:`Comparison`

    def decide(self, profile: Profile) -> Decision:
        """What the code says of the runs."""
        return RULES[self.code](runs_for(self.runs, profile))


# Smallest κ against largest, of equal size where they were run.
CURVES = [("selected", "inverse_matched_size"), ("selected", "inverse")]
# A curve that has not seen its data twice, or whose rate decays, has no reason to turn.
EPOCHS = 2.0


def best_by_others(curve: np.ndarray) -> np.ndarray:
    """Of a curve, (seeds, evaluations), the WER of each seed where the *others'* mean is lowest.

    The lowest of several noisy points lies below the end of a curve that only wavers.
    """
    return curve[np.arange(len(curve)), (curve.sum(0) - curve).argmin(1)]


def rise(curve: np.ndarray) -> Decision:
    """WER at the end less that at the best point, in points."""
    return decide_difference(curve[:, -1] - best_by_others(curve), verdicts.POINTS, "points")


def falls(selected: np.ndarray, inverse: np.ndarray) -> Decision:
    """From its best point the WER of ``selected`` does not rise."""
    found = rise(selected)
    if found.verdict in (Verdict.SAME, Verdict.LOWER):
        return found.but(Verdict.HOLDS)
    return found.but(Verdict.FAILS) if found.verdict == Verdict.HIGHER else found


def rises(selected: np.ndarray, inverse: np.ndarray) -> Decision:
    """From its best point the WER of ``inverse`` rises."""
    return together({"wer": rise(inverse)}, Verdict.HIGHER)


def good_early(selected: np.ndarray, inverse: np.ndarray) -> Decision:
    """At its best before the end, inverse has come nine tenths of the way to the lowest WER.

    The way begins at the start, or at the 100 % of a model that says nothing: from far above it,
    where the model talks, nine tenths are soon gone.
    """
    best = best_by_others(inverse[:, :-1])
    lowest = min(best.min(), best_by_others(selected).min())
    first = np.minimum(inverse[:, 0], 100.0)
    way = (first - best) / (first - lowest)
    unit = "of the fall from the start, or 100 %, to the lowest WER, beyond 0.9"
    found = together({"way": decide_difference(way - 0.9, 0.0, unit)}, Verdict.HIGHER)
    return found.noting(f"WER from {inverse[:, 0].mean():.0f} % to {best.mean():.0f} %")


def of_curves(rule: Callable[[np.ndarray, np.ndarray], Decision], found: Runs) -> Decision:
    """The rule on the WER of ``selected`` and ``inverse``, where a rise would say anything."""
    if not (ran := compare.pairs_of(found, CURVES)):
        return verdicts.NOT_RUN
    pair = ran[0]
    rates = {config.get("schedule", "decaying") for arm in pair for config in found.configs(arm)}
    if rates != {"constant"} or found.epochs < EPOCHS:
        note = f"{found.epochs:.2g} epochs at a {' or '.join(sorted(rates))} rate"
        return Decision(Verdict.NOT_TESTABLE, note=note)
    each = (found.evaluations.query("arm == @arm") for arm in pair)
    wide = (rows.pivot(index="seed", columns="step", values="wer_mean") for rows in each)
    return rule(*(100 * rows.to_numpy() for rows in wide))


def new_modality(found: Runs) -> Decision:
    """The last WER of every test corpus, recorded people included, lies below one half."""
    if "selected" not in found.ran:
        return verdicts.NOT_RUN
    ends = found.ends.loc[["selected"]].set_index("seed").filter(regex="^wer_(?!mean)")
    kept, note = verdicts.decisive(ends.rename(columns=lambda name: name.removeprefix("wer_")))
    parts = {}
    for corpus, rates in kept.dropna(axis="columns").items():
        below_half = decide_difference(100 * rates - 50, verdicts.POINTS, "points from 50 %")
        parts[corpus] = below_half.noting(note)
    if not parts:
        return Decision(Verdict.NOT_TESTABLE, note="not tested on speech")
    if {part.verdict for part in parts.values()} == {Verdict.LOWER, Verdict.HIGHER}:
        largest = max(part.p for part in parts.values())
        return replace(together(parts), verdict=Verdict.CORRECTED, p=largest)
    return together(parts)


def disruption_causes_forgetting(found: Runs) -> Decision:
    """Where arms of the same size and types disrupt differently, the more disrupted forgets more;
    without a decided difference in disruption there is nothing to follow."""
    if not (ran := compare.pairs_of(found, compare.MATCHED)):
        return verdicts.NOT_RUN
    pair = ran[0]
    moved = pd.DataFrame({arm: found.disruption(arm) for arm in pair}).dropna()
    if moved.empty:
        return Decision(Verdict.NOT_TESTABLE, note="no spectra from before and after training")
    apart, note = verdicts.decisive(moved[pair[0]] - moved[pair[1]])
    disrupted = decide_difference(apart, 0.0, "log of |Δ log κ|")
    forgot = {outcome: compare.decide(found, pair, outcome) for outcome in ("text", "kl")}
    sides, verdict = {part.verdict for part in forgot.values()}, Verdict.UNDECIDED
    if disrupted.verdict == Verdict.NOT_TESTABLE:
        verdict = Verdict.NOT_TESTABLE
    elif sides in ({Verdict.LOWER}, {Verdict.HIGHER}) and disrupted.verdict in verdicts.DECIDED:
        verdict = Verdict.HOLDS if sides == {disrupted.verdict} else Verdict.FAILS
    parts = {"disruption": disrupted, **forgot}
    decision = Decision(verdict, n=disrupted.n, p=together(forgot).p, parts=parts)
    unlike = compare.unlike(found, pair, ["parameters", "types", "layers"])
    return verdicts.unless_confounded(decision.noting(note), unlike)


RULES: dict[str, Callable[[Runs], Decision]] = {
    "every corpus is understood": new_modality,
    "forgetting follows disruption": disruption_causes_forgetting,
    "the curve falls": partial(of_curves, falls),
    "the curve rises": partial(of_curves, rises),
    "the curve is good early": partial(of_curves, good_early),
}
