"""Transcripts as they are compared: each language's normaliser, and the error rate of its words.

Where a language is written without spaces between words, letters stand for words, as Whisper's
authors have it (Radford et al. 2022, arXiv 2212.04356, appendix C): the word error rate of its
letters is the character error rate.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from kappa_lib.errors import InputError

# Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and Dzongkha, by all of their codes.
_CODES = (
    "zh zho chi cmn yue wuu nan hak gan ja jpn th tha lo lao km khm my mya bur bo bod tib dz dzo"
)
UNSPACED = frozenset(re.findall("[a-z]+", _CODES))
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʻʹ′ˈ`´＇", "'"))
_TURKIC = str.maketrans({"I": "ı", "İ": "i"})


def fold(text: str) -> str:
    """One spelling of what is only typed differently.

    Apostrophes, composition, what is not seen (soft hyphens, joiners, marks of direction) and what
    Hebrew and Arabic may go without: vowel points, and the line that stretches a word.
    """
    text = re.sub(r"(?<!\w)[‘‛]", " ", text)  # a quotation begins, and ’s is no "is" in it
    composed = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    return "".join(c for c in composed if c.isascii() or not _unwritten(c))


def _unwritten(character: str) -> bool:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    points = category == "Mn" and name.startswith(("ARABIC", "HEBREW"))
    return category == "Cf" or points or name == "ARABIC TATWEEL"


def sentence_key(text: str) -> str:
    """The words of a text alone: two texts with the same key are the same sentence."""
    folded = fold(text).casefold().replace("'", "")
    letters = (c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return " ".join("".join(letters).split())


@cache
def _rules(language: str) -> Callable[[str], str]:
    if not re.fullmatch("[a-z]{2,3}", language):
        raise InputError(f"language {language!r}", "give its code, for instance en or de")
    if language in ("en", "eng"):
        return EnglishTextNormalizer()
    return BasicTextNormalizer(preserve_marks=True, split_letters=language in UNSPACED)


@lru_cache(maxsize=100_000)  # references come again at every evaluation
def normalise(text: str, language: str) -> str:
    """Words as the error rate compares them, with a space between two; see :func:`measure`."""
    text = fold(text)
    if language in ("tr", "tur", "az", "aze"):
        text = text.translate(_TURKIC)
    # Elsewhere than in Turkish, lower() leaves the dot of İ as a mark.
    words = _rules(language)(text.lower().replace("i\N{COMBINING DOT ABOVE}", "i")).strip()
    # The English normaliser keeps lone full stops.
    return words if any(c.isalnum() for c in words) else ""


def normaliser(language: str) -> str:
    """Name of a language's normaliser, and its measure where that is not the word error rate."""
    if language in ("en", "eng"):
        return "Whisper English"
    if language in UNSPACED:
        return "Whisper basic, letter by letter with their marks: character error rate"
    # German letters, once composed, have no marks to keep.
    return "Whisper basic" if language == "de" else "Whisper basic, marks of letters kept"


def measure(language: str) -> str:
    """``WER``, or ``CER`` of a language that is written without spaces between words."""
    return "CER" if language in UNSPACED else "WER"


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], language: str) -> float:
    """(substitutions + deletions + insertions) / reference words, over the whole test set.

    A fraction; above 1 when the hypotheses are longer than what was said. Letters count as words
    where :func:`measure` says ``CER``.

    Raises:
        InputError: a reference that is empty after normalisation.
    """
    for reference in references:
        if not normalise(reference, language):
            what = f"reference {reference!r} in {language!r} is empty after normalisation"
            raise InputError(what, "drop it from the test set: its word error rate is undefined")
    pairs = zip(references, hypotheses, strict=True)
    wrong, words = map(sum, zip(*(word_errors(*pair, language) for pair in pairs), strict=True))
    return wrong / words


def word_errors(reference: str, hypothesis: str, language: str) -> tuple[int, int]:
    """Errors and reference words of one utterance; sums of them give the word error rate."""
    found = jiwer.process_words(normalise(reference, language), normalise(hypothesis, language))
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.hits + found.substitutions + found.deletions
