"""Rules for the claims about κ of a model's tensors, which no training is needed for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kappa_lib.evidence.statistics import share_interval, spearman_interval
from kappa_lib.evidence.verdicts import (
    CONFOUNDED,
    CORRECTED,
    FAILS,
    HOLDS,
    NOT_TESTABLE,
    UNDECIDED,
    Decision,
    decides,
)
from kappa_lib.spectra.measures import volume_loss

# A stand-in shares at least two thirds of the variance of ranks.
STAND_IN = 0.8


@decides("lowest-kappa-is-least-specialised")
def lowest_kappa(square_among_lowest: int, square_among_highest: int, squares: int) -> Decision:
    """Untrained weights of the paper's shapes already split the same way."""
    separated = square_among_lowest == 0 and square_among_highest == squares
    note = "shape alone sorts the model's matrices this way"
    return Decision(CONFOUNDED, note=note) if separated else Decision(UNDECIDED)


@decides("kappa-of-stored-weights")
def kappa_of_stored(kappa_true: float, kappa_read: float, smallest_possible: float) -> str:
    """κ as read from rounded weights, against the truth."""
    if abs(kappa_read / kappa_true - 1) < 0.1:
        return HOLDS
    # A smallest singular value that rounding could have made zero leaves κ without a bound.
    return CORRECTED if smallest_possible == 0 else FAILS


@decides("kappa-reflects-training")
def kappa_reflects_training(
    above: Sequence[int], tensors: Sequence[int], variance_explained_by_type: float
) -> Decision:
    """Tensors above the median κ of untrained ones of their shape: half, if nothing was learned.

    Args:
        above: how many, a module type each.
        tensors: of how many.
        variance_explained_by_type: of log κ.
    """
    if sum(tensors) < 2:
        return Decision(NOT_TESTABLE, note="fewer than two tensors")
    ends = [share_interval(k, n) for k, n in zip(above, tensors, strict=True)]
    shares = [k / n for k, n in zip(above, tensors, strict=True)]
    nearest = min(range(len(shares)), key=lambda i: abs(shares[i] - 0.5))
    traces = [low > 0.5 or high < 0.5 for low, high in ends]
    verdict = CORRECTED if variance_explained_by_type >= 0.5 else HOLDS
    if not all(traces):
        verdict = UNDECIDED if any(traces) else FAILS
    return Decision(
        verdict,
        shares[nearest],
        ends[nearest],
        unit="of the tensors above their null's median, against 0.5; the type nearest to it",
        n=tensors[nearest],
        note=f"type explains {100 * variance_explained_by_type:.0f} % of the variance of log κ",
    )


@decides("kappa-as-proxy")
def kappa_as_proxy(
    kappa: Sequence[float], effective_rank: Sequence[float], spearman_all: float
) -> Decision:
    """Within-type ρ of κ and of effective rank with the volume lost, each ρ, low, high.

    The log-volume itself is no measure for the paper (Sec. 3.1, it depends on scale); the volume
    lost at the tensor's norm does not depend on it.
    """
    rho, low, high = kappa
    verdict = HOLDS if low >= STAND_IN else FAILS if high < STAND_IN else UNDECIDED
    note = (
        f"effective rank follows it at ρ = {effective_rank[0]:+.3f}"
        f" [{effective_rank[1]:+.3f}, {effective_rank[2]:+.3f}]; over all types κ does at"
        f" {spearman_all:.2f}"
    )
    unit = f"Spearman's ρ within types, against {STAND_IN}"
    return Decision(verdict, rho, (low, high), unit=unit, note=note)


def volume_follows(table: pd.DataFrame, measure: str) -> tuple[float, float, float]:
    """Within-type Spearman of a measure with the volume lost: ρ, low, high over layers.

    Args:
        table: κ table with at least two layers; a measure of counts is taken over the rank.
        measure: a column, as ``kappa`` or ``effective_rank``.
    """
    values = table[measure].to_numpy()
    if measure == "effective_rank":
        values = values / np.minimum(table["rows"], table["cols"])
    lost = volume_loss(table)
    found = spearman_interval(values, lost, table["layer"], strata=table["type"])
    return found.estimate, found.low, found.high


@decides("selection-without-data")
def selection_without_data(tensors_ranked: int, tensors_total: int) -> str:
    """Every matrix has a rank from the weight file alone."""
    return HOLDS if 0 < tensors_ranked == tensors_total else FAILS


@decides("anisotropy-is-central")
def anisotropy_is_central(
    text_loss: float,
    text_loss_flattened: Sequence[float],
    text_loss_shaken: Sequence[float],
    text_loss_permuted: Sequence[float],
) -> Decision:
    """Equal singular values cost over 0.1 nats, and more than either control, in every type.

    Args:
        text_loss: of the unchanged model, nats a token.
        text_loss_flattened: with all σ of a module type equal, a type each.
        text_loss_shaken: with noise of the same size instead.
        text_loss_permuted: with the same σ on other singular directions, κ as it was.
    """
    worst = min(text_loss_flattened) - text_loss
    if worst <= 0.1:
        return Decision(FAILS, worst, unit="nats a token, the least type")
    controls = list(zip(text_loss_flattened, text_loss_shaken, strict=True))
    if not text_loss_permuted:
        note = "without the control of the same spectrum, permuted"
        return Decision(UNDECIDED, worst, unit="nats a token, the least type", note=note)
    controls += zip(text_loss_flattened, text_loss_permuted, strict=True)
    least = min(flat - control for flat, control in controls)
    verdict = HOLDS if least > 0.1 else CONFOUNDED
    return Decision(verdict, least, unit="nats a token more than a control, the least type")
