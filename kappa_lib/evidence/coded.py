"""Rules that need code of their own: the paper's Figure 1, the new modality, and disruption.

The curves of Figure 1 are single arms. The lowest of several noisy points lies below the end of a
curve that only wavers, so a seed's best point is where the *other* seeds' mean is lowest.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from kappa_lib.evidence import compare
from kappa_lib.evidence.runs import Runs
from kappa_lib.evidence.verdicts import (
    DECIDED,
    NOT_RUN,
    POINTS,
    Decision,
    Verdict,
    decide_difference,
    decisive,
    together,
    unless_confounded,
)

# Smallest κ against largest, of equal size where they were run.
CURVES = [("selected", "inverse_matched_size"), ("selected", "inverse")]
# A curve that has not seen its data twice, or whose rate decays, has no reason to turn.
EPOCHS = 2.0
# What only differs in κ, and what such arms have to have in common.
ALIKE_ARMS = [
    ("lower_of_neighbours", "higher_of_neighbours"),
    ("lowest_in_type", "highest_in_type"),
]


def best_by_others(curve: np.ndarray) -> np.ndarray:
    """Of a curve, (seeds, evaluations), the WER of each seed where the *others'* mean is lowest."""
    return curve[np.arange(len(curve)), (curve.sum(0) - curve).argmin(1)]


def rise(curve: np.ndarray) -> Decision:
    """WER at the end less that at the best point, in points."""
    return decide_difference(curve[:, -1] - best_by_others(curve), POINTS, "points")


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
        return NOT_RUN
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
        return NOT_RUN
    ends = found.ends.loc[["selected"]].set_index("seed").filter(regex="^wer_(?!mean)")
    kept, note = decisive(ends.index.tolist())
    beyond = 100 * ends.loc[kept].dropna(axis="columns") - 50
    unit = "points from 50 %"
    parts = {
        column.removeprefix("wer_"): decide_difference(beyond[column], POINTS, unit).noting(note)
        for column in beyond
    }
    if not parts:
        return Decision(Verdict.NOT_TESTABLE, note="not tested on speech")
    decision = together(parts)
    if {part.verdict for part in parts.values()} == {Verdict.LOWER, Verdict.HIGHER}:
        largest = max(part.p for part in parts.values())
        return replace(decision, verdict=Verdict.CORRECTED, p=largest)
    return decision


def disruption_causes_forgetting(found: Runs) -> Decision:
    """Where arms of the same size and types disrupt differently, the more disrupted forgets more.

    Without a decided difference in disruption there is nothing for forgetting to follow.
    """
    if not (ran := compare.pairs_of(found, ALIKE_ARMS)):
        return NOT_RUN
    pair = ran[0]
    moved = pd.DataFrame({arm: found.disruption(arm) for arm in pair}).dropna()
    if moved.empty:
        return Decision(Verdict.NOT_TESTABLE, note="no spectra from before and after training")
    kept, note = decisive(moved.index.tolist())
    apart = (moved[pair[0]] - moved[pair[1]]).loc[kept]
    disrupted = decide_difference(apart, 0.0, "log of |Δ log κ|")
    forgot = {outcome: compare.decide(found, pair, outcome) for outcome in ("text", "kl")}
    sides, verdict = {part.verdict for part in forgot.values()}, Verdict.UNDECIDED
    if disrupted.verdict == Verdict.NOT_TESTABLE:
        verdict = Verdict.NOT_TESTABLE
    elif sides in ({Verdict.LOWER}, {Verdict.HIGHER}) and disrupted.verdict in DECIDED:
        verdict = Verdict.HOLDS if sides == {disrupted.verdict} else Verdict.FAILS
    parts = {"disruption": disrupted, **forgot}
    decision = Decision(verdict, n=disrupted.n, p=together(forgot).p, parts=parts)
    unlike = compare.unlike(found, pair, ["parameters", "types", "layers"])
    return unless_confounded(decision.noting(note), unlike)


RULES: dict[str, Callable[[Runs], Decision]] = {
    "every corpus is understood": new_modality,
    "forgetting follows disruption": disruption_causes_forgetting,
    "the curve falls": partial(of_curves, falls),
    "the curve rises": partial(of_curves, rises),
    "the curve is good early": partial(of_curves, good_early),
}
