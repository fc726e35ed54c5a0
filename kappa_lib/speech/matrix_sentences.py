"""Five-slot matrix sentences, name verb number adjective object, ten words a slot.

The form is that of the audiology matrix tests: every sentence is grammatical, none can be guessed
from its other words, and a language has 10⁵ of them. The words are our own.
"""

from kappa_lib.errors import InputError
from kappa_lib.speech.synthesis import Voice

_WORDS = {
    "en": """
        Anna David Emma George Helen Martin Nora Oliver Susan Victor
        buys carries finds keeps loses needs paints sells wants washes
        two three four five six seven eight nine twelve twenty
        cheap clean empty green heavy old pretty red small yellow
        apples baskets chairs gloves lamps pencils rings shoes tables windows""",
    # Accusative plural without an article, so every adjective ends in -e whatever the noun.
    "de": """
        Anna Doris Felix Frank Heike Jonas Klara Martin Sabine Ulrich
        bringt findet holt kauft malt nimmt sieht sucht verliert zeigt
        zwei drei vier fünf sechs sieben acht neun zwölf zwanzig
        alte bunte grüne kleine leere neue rote schwere teure weiße
        Äpfel Briefe Gläser Hüte Jacken Karten Lampen Stühle Tische Uhren""",
}
SLOTS = {
    language: tuple(tuple(line.split()) for line in words.strip().splitlines())
    for language, words in _WORDS.items()
}
COUNT = 10**5  # sentences a language

SPEAKERS: dict[str, tuple[str, ...]] = {
    "en": (
        *("en-us+m1", "en-us+m3", "en+m7", "en-gb-x-rp+m2"),
        *("en-us+f2", "en+f1", "en-gb-x-rp+f3", "en-us+f4"),
    ),
    "de": ("de+m1", "de+m2", "de+m3", "de+m7", "de+f1", "de+f2", "de+f3", "de+f4"),
}
RATES = (150, 190)  # words per minute
PITCHES = (40, 60)  # 50 is the speaker's own


def sentence(language: str, index: int) -> str:
    """Sentence number ``index`` of a language, 0 to 99,999; the digits choose the words.

    Raises:
        InputError: a language without words, or an index out of range.
    """
    if language not in SLOTS:
        raise InputError(f"language {language!r}: no matrix sentences", f"one of {list(SLOTS)}")
    if not 0 <= index < COUNT:
        raise InputError(f"sentence {index}: there are {COUNT}", "give 0 to 99,999")
    digits = f"{index:05d}"
    return " ".join(words[int(d)] for words, d in zip(SLOTS[language], digits, strict=True))


def voice(speaker: str, variation: int) -> Voice:
    """A speaker at one of its rates and pitches; any ``variation`` ≥ 0 gives one."""
    rates, pitches = range(RATES[0], RATES[1] + 1, 5), range(PITCHES[0], PITCHES[1] + 1, 5)
    return Voice(
        speaker,
        rates[variation % len(rates)],
        pitches[variation // len(rates) % len(pitches)],
    )
