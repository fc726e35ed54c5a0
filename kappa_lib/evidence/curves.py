"""Whether a curve of word error rates turns, and where: the paper's Figure 1.

Its curves are single arms. The lowest of several noisy points lies below the end of a curve that
only wavers, so a seed's best point is where the *other* seeds' mean is lowest.
"""

from dataclasses import replace

import numpy as np

from kappa_lib.evidence.runs import Runs
from kappa_lib.evidence.verdicts import (
    ENOUGH_SEEDS,
    FAILS,
    HIGHER,
    HOLDS,
    LOWER,
    NOT_RUN,
    NOT_TESTABLE,
    POINTS,
    SAME,
    TOO_FEW,
    UNDECIDED,
    Decision,
    decide_difference,
    together,
)

# Smallest κ against largest, of equal size where they were run.
PAIRS = [("selected", "inverse_matched_size"), ("selected", "inverse")]
# A curve that has not seen its data twice, or whose rate decays, has no reason to turn.
EPOCHS = 2.0


def of(found: Runs, arm: str) -> np.ndarray:
    """WER of an arm in percent, (seeds, evaluations)."""
    rows = found.evaluations[found.evaluations["arm"] == arm]
    return 100 * rows.pivot(index="seed", columns="step", values="wer_mean").to_numpy()


def _turning(found: Runs) -> tuple[np.ndarray, np.ndarray] | Decision:
    """Curves of ``selected`` and ``inverse``, or why a rise or its absence would say nothing."""
    pair = found.first_of(PAIRS)
    if pair is None:
        return NOT_RUN
    rates = {config.get("schedule", "decaying") for arm in pair for config in found.configs(arm)}
    if rates != {"constant"} or found.epochs < EPOCHS:
        note = f"{found.epochs:.2g} epochs at a {' or '.join(sorted(rates))} rate"
        return Decision(NOT_TESTABLE, note=note)
    first, second = (of(found, arm) for arm in pair)
    if min(len(first), len(second)) < ENOUGH_SEEDS:
        return Decision(NOT_TESTABLE, note=TOO_FEW)
    return first, second


def best_by_others(curve: np.ndarray, before: int | None = None) -> tuple[np.ndarray, bool]:
    """WER of each seed where the mean of the *other* seeds is lowest; whether all are at the end.

    The lowest of several noisy points lies below the end of a curve that only wavers. ``before``
    leaves the evaluations from that one on (as an index) out of the search.
    """
    others = (curve.sum(0) - curve)[:, :before]
    picks = others.argmin(1)
    return curve[np.arange(len(curve)), picks], bool((picks == curve.shape[1] - 1).all())


def rise(curve: np.ndarray) -> Decision:
    """WER at the end less that at the best point, in points."""
    return decide_difference(curve[:, -1], best_by_others(curve)[0], POINTS, "points")


def selected_falls(found: Runs) -> Decision:
    """From its best point, found on the other seeds, WER does not rise."""
    curves = _turning(found)
    return curves if isinstance(curves, Decision) else falls(curves[0])


def falls(curve: np.ndarray) -> Decision:
    """The rule itself."""
    found = rise(curve)
    down = best_by_others(curve)[1] or found.verdict in (SAME, LOWER)
    return replace(
        found, verdict=HOLDS if down else FAILS if found.verdict == HIGHER else UNDECIDED
    )


def inverse_rises(found: Runs) -> Decision:
    """From its best point, found on the other seeds, WER rises."""
    curves = _turning(found)
    return curves if isinstance(curves, Decision) else together({"wer": rise(curves[1])}, "higher")


def inverse_good_early(found: Runs) -> Decision:
    """At its best before the end, inverse has come nine tenths of the way to the lowest WER."""
    curves = _turning(found)
    return curves if isinstance(curves, Decision) else good_early(*curves)


def good_early(selected: np.ndarray, inverse: np.ndarray) -> Decision:
    """The rule itself. The way begins at the start, or at the 100 % of a model that says nothing:
    from far above it, where the model talks, nine tenths are soon gone."""
    best, _ = best_by_others(inverse, before=-1)
    lowest = min(best.min(), best_by_others(selected)[0].min())
    first = np.minimum(inverse[:, 0], 100.0)
    way = (first - best) / (first - lowest)
    unit = "of the fall from the start, or 100 %, to the lowest WER, beyond 0.9"
    found = together({"way": decide_difference(way, [0.9] * len(way), 0.0, unit)}, "higher")
    return found.noting(f"WER from {inverse[:, 0].mean():.0f} % to {best.mean():.0f} %")
