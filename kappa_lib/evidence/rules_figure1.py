"""Rules for the paper's Figure 1: whether a curve of word error rates turns, and where.

Its curves are single arms; what differs between arms beside κ is for ``rules_study``. The best
point is picked on one half of the test set and measured on the other.
"""

from dataclasses import replace

import numpy as np

from kappa_lib.evidence.rules_study import Arm
from kappa_lib.evidence.statistics import ENOUGH_SEEDS, POINTS, decide_difference
from kappa_lib.evidence.verdicts import (
    FAILS,
    HOLDS,
    NOT_TESTABLE,
    SAME,
    UNDECIDED,
    Decision,
    decides,
)

# A curve that has not seen its data twice, or whose rate decays, has no reason to turn.
EPOCHS = 2.0


def _cannot_turn(epochs: float, schedule: str, *arms: Arm) -> Decision | None:
    """Why a rise or its absence says nothing, if it does not."""
    if schedule != "constant" or epochs < EPOCHS:
        note = f"{epochs:.2g} epochs at a {schedule} rate: such a curve has no reason to turn"
        return Decision(NOT_TESTABLE, note=note)
    if not all(arm and len(arm["seeds"]) >= ENOUGH_SEEDS for arm in arms):
        return Decision(NOT_TESTABLE, note="fewer than three seeds")
    if not all(len(half) == 2 for arm in arms for half in arm["halves"]):
        return Decision(NOT_TESTABLE, note="no transcripts to halve the test set")
    return None


def _after_best(arm: Arm) -> tuple[list[float], list[float], list[float], bool]:
    """First, best and last WER in points, a seed each, measured on the half that did not pick."""
    picks = [int(np.argmin(half[0])) for half in arm["halves"]]
    checks = [half[1] for half in arm["halves"]]
    columns = [(c[0], c[i], c[-1]) for c, i in zip(checks, picks, strict=True)]
    first, best, last = ([100 * value for value in column] for column in zip(*columns, strict=True))
    return first, best, last, all(i == len(c) - 1 for i, c in zip(picks, checks, strict=True))


@decides("selected-falls")
def selected_falls(selected: Arm, epochs: float, schedule: str) -> Decision:
    """From its best point, found on one half of the test set, WER does not rise on the other."""
    untestable = _cannot_turn(epochs, schedule, selected)
    if untestable:
        return untestable
    _, best, last, at_the_end = _after_best(selected)
    rise = decide_difference(last, best, POINTS, "higher", "points")
    falls = at_the_end or rise.verdict == SAME
    return replace(rise, verdict=HOLDS if falls else FAILS if rise.verdict == HOLDS else UNDECIDED)


@decides("inverse-rises")
def inverse_rises(inverse: Arm, epochs: float, schedule: str) -> Decision:
    """From its best point, found on one half of the test set, WER rises on the other."""
    untestable = _cannot_turn(epochs, schedule, inverse)
    if untestable:
        return untestable
    _, best, last, _ = _after_best(inverse)
    return decide_difference(last, best, POINTS, "higher", "points")


@decides("inverse-good-early")
def inverse_good_early(selected: Arm, inverse: Arm, epochs: float, schedule: str) -> Decision:
    """At its best, before the end, inverse has come nine tenths of the way to the lowest WER."""
    untestable = _cannot_turn(epochs, schedule, selected, inverse)
    if untestable:
        return untestable
    first, best, _, at_the_end = _after_best(inverse)
    lowest = min(*best, *_after_best(selected)[1])
    way = [(a - b) / (a - lowest) for a, b in zip(first, best, strict=True)]
    found = decide_difference(way, [0.9] * len(way), 0.0, "higher", "of the way, beyond 0.9")
    return replace(found, verdict=UNDECIDED) if at_the_end else found


@decides("published-wer")
def published_wer(model: str, wer_selected_final: float, wer_inverse_best: float) -> str:
    """Both published points within half a point, with the published model only."""
    if "llama-3" not in model.lower() or "8b" not in model.lower():
        return NOT_TESTABLE
    close = abs(wer_selected_final - 0.0561) < 0.005 and abs(wer_inverse_best - 0.0613) < 0.005
    return HOLDS if close else FAILS
