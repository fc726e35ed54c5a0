"""Transcripts as they are compared: one normaliser a language, and the word error rate."""

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from kappa_lib.errors import InputError


@cache
def _normaliser(language: str) -> Callable[[str], str]:
    if not re.fullmatch("[a-z]{2,3}", language):
        raise InputError(f"language {language!r}", "give its code, for instance en or de")
    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


@lru_cache(maxsize=100_000)  # references come again at every evaluation
def normalise(text: str, language: str) -> str:
    """Text as WER compares it; :func:`normaliser` names the language's normaliser."""
    words = _normaliser(language)(text).strip()
    # The English normaliser keeps lone full stops.
    return words if any(c.isalnum() for c in words) else ""


def normaliser(language: str) -> str:
    """Name of a language's normaliser."""
    return "Whisper English" if language == "en" else "Whisper basic"


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], language: str) -> float:
    """(substitutions + deletions + insertions) / reference words, over the whole test set.

    A fraction; above 1 when the hypotheses are longer than what was said.

    Raises:
        InputError: no utterance, or a reference that is empty after normalisation.
    """
    if not references or len(references) != len(hypotheses):
        raise InputError(
            f"{len(references)} references and {len(hypotheses)} hypotheses in {language!r}",
            "pass one hypothesis for each of at least one reference",
        )
    spoken = [normalise(text, language) for text in references]
    for reference, text in zip(references, spoken, strict=True):
        if not text:
            raise InputError(
                f"reference {reference!r} in {language!r} is empty after normalisation",
                "drop it from the test set: its word error rate is undefined",
            )
    return jiwer.wer(spoken, [normalise(text, language) for text in hypotheses])


def word_errors(reference: str, hypothesis: str, language: str) -> tuple[int, int]:
    """Errors and reference words of one utterance; sums of them give the word error rate."""
    found = jiwer.process_words(normalise(reference, language), normalise(hypothesis, language))
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.hits + found.substitutions + found.deletions
