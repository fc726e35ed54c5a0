"""Rules for what the paper says of trained networks: κ and encoding, capacity, pruning, anisotropy.

They read what notebook 7 shows: rank correlations of κ within module types over the tensors of the
default model, and costs of changing tensors, each as (estimate, low, high). Within types, because
a module's shape decides most of its κ before any training; over types every tensor counts alike,
so that no type decides alone. Intervals resample whole layers. They were written before the full
run. Known beforehand, from a look at one text, were the costs of taking σ_k away type by type.
"""

from collections.abc import Sequence

from kappa_lib.evidence.verdicts import CORRECTED, FAILS, HOLDS, UNDECIDED, Decision, decides

# Below this |ρ| κ is no useful stand-in for what it is said to stand for, above the other it is.
NEGLIGIBLE, RELEVANT = 0.2, 0.3
# Two measures decide together: each has an interval of 97.5 %, so that both cover with 95 %.
PAIR_LEVEL = 0.975


def _supported(found: Sequence[float]) -> bool:
    return found[1] > RELEVANT


def _refuted(found: Sequence[float]) -> bool:
    """The interval lies below what would matter: κ does not track it, or runs against it."""
    return found[2] < NEGLIGIBLE


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

    ``information``: ρ of κ with the information deficit of the tensor's output on real text
    (:func:`kappa_lib.encoding.information.information_deficit`), the paper's "reduced output
    entropy". ``knowledge``: ρ of κ with the KL divergence of the model's predictions after the
    tensor's singular vectors are redrawn at the same spectrum: what it had learned beyond σ. The
    paper's reading makes both positive.
    """
    both = (information, knowledge)
    shown = min(both, key=lambda found: found[0])
    if all(map(_supported, both)):
        return _decision(HOLDS, shown, layers, "the weaker of the two senses")
    if all(map(_refuted, both)):
        shown = max(both, key=lambda found: found[0])
        return _decision(FAILS, shown, layers, "the stronger of the two senses")
    if any(map(_supported, both)) and any(map(_refuted, both)):
        sense = "output information" if _supported(information) else "what the model would lose"
        return _decision(CORRECTED, max(both, key=lambda f: f[0]), layers, f"only for {sense}")
    return _decision(UNDECIDED, shown, layers, "the weaker of the two senses")


@decides("encoding-capacity")
def encoding_capacity(isotropic: Sequence[float], real: Sequence[float], layers: int) -> Decision:
    """ρ of κ with the information deficit, for the theory's isotropic input and the real one."""
    if _supported(isotropic) and _supported(real):
        return _decision(HOLDS, real, layers, "on the real input")
    if _refuted(real) and _refuted(isotropic):
        return _decision(FAILS, real, layers, "on the real input")
    if _supported(isotropic) and _refuted(real):
        return _decision(CORRECTED, real, layers, "for isotropic inputs, not for the real ones")
    return _decision(UNDECIDED, real, layers, "on the real input")


@decides("pruning-by-kappa")
def pruning_by_kappa(
    truncated_10: Sequence[float], truncated_50: Sequence[float], layers: int
) -> Decision:
    """ρ of κ with the KL divergence after the smallest 10 % and 50 % of σ are cut off.

    Low κ being the less specialised encoding, it would be where to prune: both positive.
    """
    both = (truncated_10, truncated_50)
    if all(map(_supported, both)):
        return _decision(HOLDS, truncated_50, layers, "half of the singular values cut off")
    if all(map(_refuted, both)):
        reverse = all(found[2] < -NEGLIGIBLE for found in both)
        note = "pruning where κ is high would cost less" if reverse else "half of them cut off"
        return _decision(FAILS, truncated_50, layers, note)
    return _decision(UNDECIDED, truncated_50, layers, "half of the singular values cut off")


@decides("anisotropy-is-desirable")
def anisotropy_is_desirable(
    flattened_less_noise: Sequence[float],
    permuted_less_flattened: Sequence[float],
    raised: Sequence[float],
    layers: int,
) -> Decision:
    """Losses in nats a token, mean over tensors: what losing, and what gaining, anisotropy costs.

    ``flattened_less_noise``: all σ made equal, less noise of the same size. It fails if that is
    negative by its interval. It holds with a correction if also shuffling σ, with κ kept, costs
    more than flattening, or if raising every κ through σ_k alone (``raised``, the whole model)
    costs loss: then what counts is which directions are amplified, not how unequally.
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
