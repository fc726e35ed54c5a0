"""Transcripts as they are compared: one normaliser a language, and the word error rate."""

from collections.abc import Callable, Sequence
from functools import cache

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from kappa_lib.errors import InputError

NORMALISERS = {
    "de": "Whisper basic",
    "en": "Whisper English",
    "en_human": "Whisper English",
    "librispeech": "Whisper English",
    "mls_german": "Whisper basic",
}


@cache
def _normaliser(name: str) -> Callable[[str], str]:
    return {"Whisper basic": BasicTextNormalizer, "Whisper English": EnglishTextNormalizer}[name]()


def normalise(text: str, corpus: str) -> str:
    """Text as WER compares it; ``NORMALISERS`` names the corpus' normaliser."""
    words = _normaliser(NORMALISERS.get(corpus, "Whisper basic"))(text).strip()
    # The English normaliser keeps lone full stops.
    return words if any(c.isalnum() for c in words) else ""


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], corpus: str) -> float:
    """(substitutions + deletions + insertions) / reference words, over the whole test set.

    Args:
        references: what was said, an utterance each.
        hypotheses: what was understood, in the same order.
        corpus: decides the normaliser.

    Returns:
        A fraction; above 1 when the hypotheses are longer than what was said.

    Raises:
        InputError: no utterance, or a reference that is empty after normalisation.
    """
    if not references or len(references) != len(hypotheses):
        raise InputError(
            f"{len(references)} references and {len(hypotheses)} hypotheses of {corpus!r}",
            "pass one hypothesis for each of at least one reference",
        )
    spoken = [normalise(text, corpus) for text in references]
    for reference, text in zip(references, spoken, strict=True):
        if not text:
            raise InputError(
                f"reference {reference!r} of {corpus!r} is empty after normalisation",
                "drop it from the test set: its word error rate is undefined",
            )
    return jiwer.wer(spoken, [normalise(text, corpus) for text in hypotheses])


def word_errors(reference: str, hypothesis: str, corpus: str) -> tuple[int, int]:
    """Errors and reference words of one utterance; sums of them give the word error rate."""
    found = jiwer.process_words(normalise(reference, corpus), normalise(hypothesis, corpus))
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.hits + found.substitutions + found.deletions
