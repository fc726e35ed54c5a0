"""Rules for the claims about κ of a model's tensors, which no training is needed for.

In words they stand in ``data/claims.yaml``. Those on what a tensor encodes read rank correlations
of κ within module types, because a module's shape decides most of its κ before any training, and
costs of changing tensors, each as (estimate, low, high) over whole layers. Over types every tensor
counts alike, so that no type decides alone. They were written before the full run, but for the
second direction of pruning. Known beforehand, from a look at one text, were the costs of taking σ_k
away type by type.
"""

from collections.abc import Sequence

from scipy.stats import binomtest

from kappa_lib.evidence.verdicts import (
    CONFOUNDED,
    CORRECTED,
    FAILS,
    HOLDS,
    LEVEL,
    NOT_TESTABLE,
    UNDECIDED,
    Decision,
    decides,
)

# A stand-in shares at least two thirds of the variance of ranks.
STAND_IN = 0.8
# Below this |ρ| κ is no useful stand-in for what it is said to stand for, above the other it is.
NEGLIGIBLE, RELEVANT = 0.2, 0.3
# Two measures decide together: each has an interval of 97.5 %, so that both cover with 95 %.
PAIR_LEVEL = 0.975


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

    Counts are a module type each; a share has the 95 % interval of Clopper and Pearson (1934).
    """
    if sum(tensors) < 2:
        return Decision(NOT_TESTABLE, note="fewer than two tensors")
    tests = [binomtest(k, n) for k, n in zip(above, tensors, strict=True)]
    ends = [(float(low), float(high)) for low, high in (t.proportion_ci(LEVEL) for t in tests)]
    shares = [k / n for k, n in zip(above, tensors, strict=True)]
    nearest = min(range(len(shares)), key=lambda i: abs(shares[i] - 0.5))
    traces = [low > 0.5 or high < 0.5 for low, high in ends]
    verdict = CORRECTED if variance_explained_by_type >= 0.5 else HOLDS
    if not all(traces):
        # Of five tensors not even five of a kind exclude one half.
        enough = any(binomtest(n, n).proportion_ci(LEVEL).low > 0.5 for n in tensors)
        verdict = UNDECIDED if any(traces) or not enough else FAILS
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

    Nats a token, of the unchanged model and, a module type each, with all its σ equal, with noise
    of that size instead, and with the same σ on other singular directions, κ as it was.
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


def tracks(found: Sequence[float]) -> str:
    """Whether κ tracks a measure, from ρ and the ends of its interval: ``yes``, ``no`` or ``open``.

    ``no`` is also where κ runs against it.
    """
    if found[1] > RELEVANT:
        return "yes"
    return "no" if found[2] < NEGLIGIBLE else "open"


def _both(first: Sequence[float], second: Sequence[float]) -> str:
    """Verdict on "κ tracks both": corrected where it tracks one alone."""
    words = {tracks(first), tracks(second)}
    if words in ({"yes"}, {"no"}):
        return HOLDS if words == {"yes"} else FAILS
    return CORRECTED if words == {"yes", "no"} else UNDECIDED


def _decision(
    verdict: str, found: Sequence[float], layers: int, note: str, unit: str = "Spearman ρ"
) -> Decision:
    estimate, low, high = found
    return Decision(verdict, estimate, (low, high), PAIR_LEVEL, unit, layers, note=note)


@decides("kappa-tracks-encoding")
def kappa_tracks_encoding(
    information: Sequence[float], knowledge: Sequence[float], layers: int
) -> Decision:
    """Two senses of "encoding", fixed beforehand, since the paper means now one, now the other.

    ``information``: ρ of κ with the deficit of :mod:`kappa_lib.encoding.information` on real text,
    the paper's "reduced output entropy". ``knowledge``: with the KL after the singular vectors are
    redrawn at the same spectrum, what the tensor had learned beyond σ. The paper's reading makes
    both positive.
    """
    verdict, both = _both(information, knowledge), (information, knowledge)
    sense = "output information" if information[1] > RELEVANT else "what the model would lose"
    note = {FAILS: "the stronger of the two senses", CORRECTED: f"only for {sense}"}
    shown = (max if verdict in note else min)(both, key=lambda found: found[0])
    return _decision(verdict, shown, layers, note.get(verdict, "the weaker of the two senses"))


@decides("encoding-capacity")
def encoding_capacity(isotropic: Sequence[float], real: Sequence[float], layers: int) -> Decision:
    """ρ of κ with the information deficit, for the theory's isotropic input and the real one."""
    verdict = _both(isotropic, real)
    if verdict == CORRECTED and isotropic[1] > RELEVANT:
        return _decision(verdict, real, layers, "for isotropic inputs, not for the real ones")
    verdict = UNDECIDED if verdict == CORRECTED else verdict
    return _decision(verdict, real, layers, "on the real input")


@decides("pruning-by-kappa")
def pruning_by_kappa(
    truncated_10: Sequence[float], truncated_50: Sequence[float], layers: int
) -> Decision:
    """ρ of κ with the KL after the smallest 10 % and 50 % of σ are cut off.

    Low κ being the less specialised encoding, it would be where to prune: both positive.
    """
    both, note = (truncated_10, truncated_50), "half of the singular values cut off"
    if all(low > RELEVANT for _, low, _ in both):
        return _decision(HOLDS, truncated_50, layers, note)
    if all(high < -RELEVANT for _, _, high in both):
        note = "the other way round: pruning costs less where κ is high"
        return _decision(CORRECTED, truncated_50, layers, note)
    small = all(low > -NEGLIGIBLE and high < NEGLIGIBLE for _, low, high in both)
    return _decision(FAILS if small else UNDECIDED, truncated_50, layers, note)


@decides("anisotropy-is-desirable")
def anisotropy_is_desirable(
    flattened_less_noise: Sequence[float],
    permuted_less_flattened: Sequence[float],
    raised: Sequence[float],
    layers: int,
) -> Decision:
    """Losses in nats a token, mean over tensors: what losing, and what gaining, anisotropy costs.

    Flattening makes all σ equal, permuting keeps κ, and ``raised`` is the whole model with every κ
    raised through σ_k alone.
    """
    found, nats = flattened_less_noise, "nats a token"
    if found[2] < 0:
        return _decision(FAILS, found, layers, "noise of the same size costs more", nats)
    if found[1] <= 0:
        return _decision(UNDECIDED, found, layers, "flattened, less noise of the same size", nats)
    if permuted_less_flattened[1] > 0 or raised[1] > 0:
        note = "it is which directions are amplified that counts, not a high κ as such"
        return _decision(CORRECTED, found, layers, note, nats)
    return _decision(HOLDS, found, layers, "flattened, less noise of the same size", nats)
