"""Rules for the claims of the case study, the conclusion and the text tasks.

A WER curve is a list over seeds of lists over evaluations, as fractions; every other number named
per seed is a list over seeds. A rise in text loss is in nats per token over the base model.
"""

from collections.abc import Sequence
from itertools import pairwise

from kappa_lib.evidence.verdicts import CONFOUNDED, CORRECTED, FAILS, HOLDS, NOT_TESTABLE, decides

Curves = Sequence[Sequence[float]]
ENOUGH_SEEDS = 3


def mean_curve(curves: Curves) -> list[float]:
    """Mean over seeds at each evaluation."""
    return [sum(column) / len(column) for column in zip(*curves, strict=True)]


def compared(lower: Sequence[float], higher: Sequence[float]) -> str:
    """Verdict on "``lower`` is below ``higher``", paired by seed.

    Holds or fails when all of at least three seeds agree; two seeds or one cannot tell a
    difference from chance, and seeds that disagree mean that the claim is not borne out.
    """
    if len(lower) < ENOUGH_SEEDS:
        return NOT_TESTABLE
    return HOLDS if all(a < b for a, b in zip(lower, higher, strict=True)) else FAILS


def alike(first: float, second: float, within: float = 0.01) -> bool:
    """Whether two counts differ by at most a share ``within`` of the larger."""
    return abs(first - second) <= within * max(first, second)


@decides("kappa-reflects-training")
def kappa_reflects_training(variance_explained_by_type: float, tensors: int) -> str:
    if tensors < 2:
        return NOT_TESTABLE
    return CONFOUNDED if variance_explained_by_type >= 0.5 else HOLDS


@decides("kappa-as-proxy")
def kappa_as_proxy(spearman_all: float, spearman_within_type: float) -> str:
    if spearman_within_type >= 0.9:
        return HOLDS
    if spearman_within_type >= 0.5:
        return CORRECTED
    return CONFOUNDED if spearman_all >= 0.5 else FAILS


@decides("selection-without-data")
def selection_without_data(tensors_ranked: int, tensors_total: int) -> str:
    return HOLDS if 0 < tensors_ranked == tensors_total else FAILS


@decides("anisotropy-is-central")
def anisotropy_is_central(
    text_loss: float, text_loss_flattened: float, text_loss_shaken: float
) -> str:
    if text_loss_flattened <= text_loss + 0.1:
        return FAILS
    return HOLDS if text_loss_flattened > text_loss_shaken + 0.1 else CONFOUNDED


@decides("parameters-similar")
def parameters_similar(parameters_selected: int, parameters_inverse: int) -> str:
    return HOLDS if alike(parameters_selected, parameters_inverse, 0.1) else FAILS


@decides("selected-beats-inverse")
def selected_beats_inverse(wer_selected: Curves, wer_inverse: Curves) -> str:
    return compared([run[-1] for run in wer_selected], [run[-1] for run in wer_inverse])


@decides("selected-falls")
def selected_falls(wer_selected: Curves) -> str:
    if len(wer_selected) < ENOUGH_SEEDS:
        return NOT_TESTABLE
    falls = all(after <= before + 0.005 for before, after in pairwise(mean_curve(wer_selected)))
    return HOLDS if falls else FAILS


@decides("inverse-good-early")
def inverse_good_early(wer_selected: Curves, wer_inverse: Curves) -> str:
    if len(wer_inverse) < ENOUGH_SEEDS:
        return NOT_TESTABLE
    selected, inverse = mean_curve(wer_selected), mean_curve(wer_inverse)
    early = max(1, len(inverse) // 2)
    return HOLDS if min(inverse[:early]) <= min(selected[:early]) * 1.1 else FAILS


@decides("inverse-rises")
def inverse_rises(wer_inverse: Curves) -> str:
    if len(wer_inverse) < ENOUGH_SEEDS:
        return NOT_TESTABLE
    curve = mean_curve(wer_inverse)
    best = curve.index(min(curve))
    after = curve[best:]
    rising = all(b >= a for a, b in pairwise(after)) and after[-1] > 1.05 * after[0]
    return HOLDS if best < len(curve) - 1 and rising else FAILS


@decides("published-wer")
def published_wer(model: str, wer_selected_final: float, wer_inverse_best: float) -> str:
    if "llama-3" not in model.lower() or "8b" not in model.lower():
        return NOT_TESTABLE
    close = abs(wer_selected_final - 0.0561) < 0.005 and abs(wer_inverse_best - 0.0613) < 0.005
    return HOLDS if close else FAILS


@decides("inverse-forgets-more")
def inverse_forgets_more(
    text_rise_selected: Sequence[float],
    text_rise_inverse: Sequence[float],
    parameters_selected: int,
    parameters_inverse: int,
) -> str:
    verdict = compared(text_rise_selected, text_rise_inverse)
    if verdict == HOLDS and not alike(parameters_selected, parameters_inverse):
        return CONFOUNDED
    return verdict


@decides("kappa-is-the-cause")
def kappa_is_the_cause(
    wer_lowest_within_type: Sequence[float],
    wer_highest_within_type: Sequence[float],
    text_rise_lowest_within_type: Sequence[float],
    text_rise_highest_within_type: Sequence[float],
) -> str:
    # Selected against inverse differ in type and size of tensor: without arms that differ in κ
    # alone, κ cannot be told from them.
    if not wer_lowest_within_type or not wer_highest_within_type:
        return CONFOUNDED
    verdicts = {
        compared(wer_lowest_within_type, wer_highest_within_type),
        compared(text_rise_lowest_within_type, text_rise_highest_within_type),
    }
    return verdicts.pop() if len(verdicts) == 1 else CORRECTED


@decides("low-kappa-is-stable")
def low_kappa_is_stable(wer_selected: Curves, wer_inverse: Curves) -> str:
    if len(wer_selected) < ENOUGH_SEEDS:
        return NOT_TESTABLE
    spreads = []
    for curves in (wer_selected, wer_inverse):
        finals = [run[-1] for run in curves]
        spreads.append(max(finals) - min(finals))
    return HOLDS if spreads[0] < spreads[1] else FAILS


@decides("mitigates-forgetting")
def mitigates_forgetting(
    text_rise_selected: Sequence[float],
    text_rise_random: Sequence[float],
    parameters_selected: int,
    parameters_random: int,
) -> str:
    if not text_rise_random:
        return CONFOUNDED
    verdict = compared(text_rise_selected, text_rise_random)
    if verdict == HOLDS and not alike(parameters_selected, parameters_random):
        return CONFOUNDED
    return verdict


@decides("new-modality")
def new_modality(wer_selected: Curves) -> str:
    if max(run[-1] for run in wer_selected) < 0.5:
        return HOLDS
    return FAILS if len(wer_selected) >= ENOUGH_SEEDS else NOT_TESTABLE


@decides("new-text-task")
def new_text_task(
    wiki_rise_kappatune: Sequence[float],
    wiki_rise_lora: Sequence[float],
    train_loss_kappatune: Sequence[float],
    train_loss_lora: Sequence[float],
) -> str:
    verdict = compared(wiki_rise_kappatune, wiki_rise_lora)
    pairs = zip(train_loss_kappatune, train_loss_lora, strict=True)
    matched = all(abs(a - b) < 0.05 for a, b in pairs)
    return verdict if matched or verdict == NOT_TESTABLE else CONFOUNDED
