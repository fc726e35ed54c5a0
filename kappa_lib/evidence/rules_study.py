"""Rules for the claims about training: the case study, forgetting, and the text task.

In words they stand in ``data/claims.yaml``. An arm is what
:func:`kappa_lib.evidence.arms.measured` returns, ``{}`` where it was not run. A comparison is
paired by seed. What differs between the arms beside κ is looked for whatever the outcome: it can
hide a difference as well as make one, so *holds*, *fails* and *no relevant difference* all become
*confounded*.

The last ones are for the paper's Figure 1: whether a curve of word error rates turns, and where.
Its curves are single arms. The lowest of several noisy points lies below the end of a curve that
only wavers, so a seed's best point is where the *other* seeds' mean is lowest.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kappa_lib.evidence.arms import OUTCOMES, margin_of, reversed_sizes, unlike
from kappa_lib.evidence.verdicts import (
    CONFOUNDED,
    CORRECTED,
    ENOUGH_SEEDS,
    FAILS,
    HOLDS,
    NOT_TESTABLE,
    POINTS,
    SAME,
    UNDECIDED,
    Decision,
    decide_difference,
    decides,
    notes,
    same_seeds,
    spread_ratio,
    together,
)
from kappa_lib.text import counted

Arm = dict[str, Any]
# The interval of a ratio of spreads rests on normal values, which a few cannot show.
SPREAD_SEEDS = 10


def compared(first: Arm, second: Arm, outcomes: Sequence[str]) -> Decision:
    """Verdict on "``first`` ends lower than ``second``", in all of the outcomes."""
    if not first or not second:
        return Decision(NOT_TESTABLE, note="an arm was not run")
    parts = {}
    for name in outcomes:
        a, b, note = same_seeds(_ends(first), _ends(second), name)
        factor = 100.0 if name == "wer" else 1.0  # to points
        a, b = ([factor * value for value in values] for values in (a, b))
        decision = decide_difference(a, b, margin_of(name), unit=OUTCOMES[name][1])
        parts[name] = replace(decision, note=notes(decision.note, note))
    return next(iter(parts.values())) if len(parts) == 1 else together(parts)


def _ends(arm: Arm) -> Arm:
    return {**arm, "wer": [curve[-1] for curve in arm.get("wer", [])]}


def unless_confounded(decision: Decision, differences: Sequence[str]) -> Decision:
    """The decision, or *confounded* where it says anything while something else differs too."""
    if not differences:
        return decision
    note = notes(decision.note, f"the first has {', '.join(differences)}")
    decided = decision.verdict in (HOLDS, CORRECTED, FAILS, SAME)
    return replace(decision, verdict=CONFOUNDED if decided else decision.verdict, note=note)


@decides("parameters-similar")
def parameters_similar(parameters_selected: int, parameters_inverse: int) -> Decision:
    """The two counts are within a tenth of the larger; a count has no error."""
    ratio = parameters_selected / parameters_inverse
    verdict = HOLDS if min(ratio, 1 / ratio) >= 0.9 else FAILS
    note = reversed_sizes(parameters_selected, parameters_inverse)
    return Decision(verdict, estimate=ratio, unit="×", note=note)


@decides("selected-beats-inverse")
def selected_beats_inverse(selected: Arm, inverse: Arm) -> Decision:
    """Last WER, paired; confounded by size and types."""
    found = compared(selected, inverse, ["wer"])
    return unless_confounded(found, unlike(selected, inverse))


@decides("inverse-forgets-more")
def inverse_forgets_more(selected: Arm, inverse: Arm) -> Decision:
    """Rise of text loss and KL, paired; confounded by size and types."""
    found = compared(selected, inverse, ["text", "kl"])
    return unless_confounded(found, unlike(selected, inverse))


@decides("mitigates-forgetting")
def mitigates_forgetting(selected: Arm, random: Arm) -> Decision:
    """Text loss and KL against random tensors of the same size, drawn anew for every seed."""
    found = compared(selected, random, ["text", "kl"])
    if not random:
        return found
    differences = unlike(selected, random, held=("parameters",))
    if random["draws"] < len(random["seeds"]):
        draws = f"the second {counted(random['draws'], 'random draw')} for all of them"
        differences.append(f"{len(random['seeds'])} seeds, {draws}")
    return unless_confounded(found, differences)


@decides("kappa-is-the-cause")
def kappa_is_the_cause(low: Arm, high: Arm) -> Decision:
    """WER, text loss and KL between arms of the same types and size; depth must be alike too."""
    found = compared(low, high, ["wer", "text", "kl"])
    return unless_confounded(found, unlike(low, high, ("parameters", "types", "layers")))


@decides("disruption-causes-forgetting")
def disruption_causes_forgetting(low: Arm, high: Arm) -> Decision:
    """Where arms of the same size and types disrupt differently, the more disrupted forgets more.

    ``disruption`` of an arm is a log, a seed each: :func:`kappa_lib.evidence.tables.disruption`.
    Without a decided difference in it there is nothing for forgetting to follow.
    """
    if not low.get("disruption") or not high.get("disruption"):
        return Decision(NOT_TESTABLE, note="no spectra from before and after training")
    first, second, note = same_seeds(low, high, "disruption")
    disrupted = decide_difference(first, second, 0.0, unit="log of |Δ log κ|")
    forgotten = compared(low, high, ["text", "kl"])
    parts = {"disruption": disrupted, **forgotten.parts}
    if disrupted.verdict not in (HOLDS, FAILS) or forgotten.verdict == NOT_TESTABLE:
        verdict = NOT_TESTABLE if disrupted.verdict == NOT_TESTABLE else UNDECIDED
    elif forgotten.verdict in (HOLDS, FAILS):
        verdict = HOLDS if forgotten.verdict == disrupted.verdict else FAILS
    else:
        verdict = UNDECIDED
    decision = Decision(verdict, n=disrupted.n, note=note, p=forgotten.p, parts=parts)
    return unless_confounded(decision, unlike(low, high, ("parameters", "types", "layers")))


@decides("low-kappa-is-stable")
def low_kappa_is_stable(
    selected: Arm, inverse: Arm, noise_cost: Sequence[float], gradient_noise: Sequence[float]
) -> Decision:
    """ρ of κ with what noise on a tensor costs, and with the noise scale of its gradient.

    Both of :func:`kappa_lib.evidence.elsewhere.stability`, as (ρ, low, high); without them the
    spread of the last WER over seeds decides.
    """
    if noise_cost and gradient_noise:
        found = {"noise cost": noise_cost, "gradient noise": gradient_noise}
        parts, unit = {}, "Spearman's ρ within types"
        for name, (rho, low, high) in found.items():
            verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
            parts[name] = Decision(verdict, rho, (low, high), unit=unit)
        return together(parts)
    if not selected or not inverse:
        return Decision(NOT_TESTABLE, note="an arm was not run")
    first, second, note = same_seeds(_ends(selected), _ends(inverse), "wer")
    unit = "× the spread"
    if len(first) < ENOUGH_SEEDS:
        return Decision(NOT_TESTABLE, n=len(first), note="fewer than three seeds")
    ratio, low, high = spread_ratio(first, second)
    if len(first) < SPREAD_SEEDS:
        few = f"a spread of {counted(len(first), 'seed')} says little, {SPREAD_SEEDS} are asked for"
        found = Decision(UNDECIDED, ratio, unit=unit, n=len(first), note=notes(few, note))
    else:
        verdict = HOLDS if high < 1 else FAILS if low > 1 else UNDECIDED
        found = Decision(verdict, ratio, (low, high), unit=unit, n=len(first), note=note)
    return unless_confounded(found, unlike(selected, inverse))


@decides("new-modality")
def new_modality(selected: Arm) -> Decision:
    """The last WER of every test corpus, recorded people included, lies below one half."""
    if not selected or not selected["corpora"]:
        return Decision(NOT_TESTABLE, note="the arm was not run, or not tested on speech")
    parts = {}
    for corpus, rates in selected["corpora"].items():
        arm = {"seeds": selected["seeds"], corpus: rates}
        values, _, note = same_seeds(arm, arm, corpus)
        points, half = [100 * value for value in values], [50.0] * len(values)
        found = decide_difference(points, half, POINTS, unit="points from 50 %")
        parts[corpus] = replace(found, note=notes(found.note, note))
    decision = together(parts)
    if {part.verdict for part in parts.values()} == {HOLDS, FAILS}:
        return replace(decision, verdict=CORRECTED, p=max(part.p for part in parts.values()))
    return decision


@decides("new-text-task")
def new_text_task(kappatune: Arm, lora: Arm) -> Decision:
    """Text loss and KL at the same training loss (within 0.05 nats) and size; a draw a seed."""
    found = compared(kappatune, lora, ["text", "kl"])
    if not kappatune or not lora:
        return found
    a, b, _ = same_seeds(kappatune, lora, "train_loss")
    differences = unlike(kappatune, lora, held=("parameters",))
    apart = max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)
    if apart >= 0.05:
        differences.append(f"a training loss up to {apart:.2f} nats away")
    return unless_confounded(found, differences)


# A curve that has not seen its data twice, or whose rate decays, has no reason to turn.
EPOCHS = 2.0


def can_turn(epochs: float, schedule: str) -> bool:
    """Whether a run is such that its curve could rise again."""
    return schedule == "constant" and epochs >= EPOCHS


def _cannot_turn(epochs: float, schedule: str, *arms: Arm) -> Decision | None:
    """Why a rise or its absence says nothing, if it does not."""
    if not can_turn(epochs, schedule):
        note = f"{epochs:.2g} epochs at a {schedule} rate: such a curve has no reason to turn"
        return Decision(NOT_TESTABLE, note=note)
    if not all(arm and len(arm["seeds"]) >= ENOUGH_SEEDS for arm in arms):
        return Decision(NOT_TESTABLE, note="fewer than three seeds")
    return None


def _after_best(arm: Arm, before: int | None = None) -> tuple[np.ndarray, np.ndarray, bool]:
    """Curves in points, WER of each seed where the others' mean is lowest; whether that is the end.

    ``before`` leaves the evaluations from that one on (as an index) out of the search.
    """
    curves = 100 * np.asarray(arm["wer"])  # (seeds, evaluations)
    others = (curves.sum(0) - curves)[:, :before]
    picks = others.argmin(1)
    best = curves[np.arange(len(curves)), picks]
    return curves, best, bool((picks == curves.shape[1] - 1).all())


@decides("selected-falls")
def selected_falls(selected: Arm, epochs: float, schedule: str) -> Decision:
    """From its best point, found on the other seeds, WER does not rise."""
    untestable = _cannot_turn(epochs, schedule, selected)
    if untestable:
        return untestable
    curves, best, at_the_end = _after_best(selected)
    rise = decide_difference(curves[:, -1], best, POINTS, "higher", "points")
    falls = at_the_end or rise.verdict in (SAME, FAILS)
    return replace(rise, verdict=HOLDS if falls else FAILS if rise.verdict == HOLDS else UNDECIDED)


@decides("inverse-rises")
def inverse_rises(inverse: Arm, epochs: float, schedule: str) -> Decision:
    """From its best point, found on the other seeds, WER rises."""
    untestable = _cannot_turn(epochs, schedule, inverse)
    if untestable:
        return untestable
    curves, best, _ = _after_best(inverse)
    return decide_difference(curves[:, -1], best, POINTS, "higher", "points")


@decides("inverse-good-early")
def inverse_good_early(selected: Arm, inverse: Arm, epochs: float, schedule: str) -> Decision:
    """At its best before the end, inverse has come nine tenths of the way to the lowest WER.

    The way begins at the start, or at the 100 % of a model that says nothing: from far above it,
    where the model talks, nine tenths are soon gone.
    """
    untestable = _cannot_turn(epochs, schedule, selected, inverse)
    if untestable:
        return untestable
    curves, best, _ = _after_best(inverse, before=-1)
    lowest = min(best.min(), _after_best(selected)[1].min())
    first = np.minimum(curves[:, 0], 100.0)
    way = (first - best) / (first - lowest)
    unit = "of the fall from the start, or 100 %, to the lowest WER, beyond 0.9"
    found = decide_difference(way, [0.9] * len(way), 0.0, "higher", unit)
    return replace(found, note=f"from a WER of {curves[:, 0].mean():.0f} % to {best.mean():.0f} %")


@decides("published-wer")
def published_wer(model: str, wer_selected_final: float, wer_inverse_best: float) -> str:
    """Both published points reached within half a point, with the published model only."""
    if "llama-3" not in model.lower() or "8b" not in model.lower():
        return NOT_TESTABLE
    reached = wer_selected_final < 0.0561 + 0.005 and wer_inverse_best < 0.0613 + 0.005
    return HOLDS if reached else FAILS
