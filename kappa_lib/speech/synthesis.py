"""Matrix sentences, and synthetic voices: the same text and voice give the same samples, always.

A matrix sentence has five slots, name verb number adjective object, of ten words each. The form
is that of the audiology matrix tests: every sentence is grammatical, none can be guessed from its
other words, and a language has 10⁵ of them. The words are our own.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import soxr

from kappa_lib.errors import InputError, KappaError, UnreachableError
from kappa_lib.paths import ROOT
from kappa_lib.speech.audio import RATE, trim
from kappa_lib.speech.speaking_worker import CRASHED, HEADER, UNKNOWN_VOICE
from kappa_lib.weights import assets

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
# Open sentences: Whisper base misreads many German words of eSpeak NG's, which the ten words a
# slot forgive and open sentences don't. Pico has one voice a language; its pitch gives others.
PICO_SPEAKERS: dict[str, tuple[str, ...]] = {"de": ("de-DE",), "en": ("en-US", "en-GB")}
# engine -> rates and pitches: words per minute and 0 to 99 (50 is the speaker's own); per cent
RANGES = {"espeak": ((150, 190), (40, 60)), "pico": ((90, 120), (75, 130))}
_AGAIN = "call again; if it was the system that did it, free some memory first"


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Args:
        name: eSpeak NG's language and variant, as in ``en-us+f3``; or Pico's, as in ``en-GB``.
        rate: words per minute, 80 to 450; Pico: per cent of the speaker's own.
        pitch: 0 to 99, 50 is the variant's own; Pico: per cent of the speaker's own.
    """

    name: str
    rate: int = 165
    pitch: int = 50

    @property
    def engine(self) -> str:
        """``espeak`` or ``pico``."""
        return "pico" if self.name in chain(*PICO_SPEAKERS.values()) else "espeak"


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
    rates, pitches = (range(low, high + 1, 5) for low, high in RANGES[Voice(speaker).engine])
    rate, pitch = variation % len(rates), variation // len(rates) % len(pitches)
    return Voice(speaker, rates[rate], pitches[pitch])


def synthesise(utterances: Iterable[tuple[str, Voice]]) -> Iterator[np.ndarray]:
    """Speak one or more texts one after the other, all by the engine of the first voice.

    Returns:
        for each text float32 ``(n,)`` at 16 kHz, within ±1, silence cut at both ends.

    Raises:
        UnreachableError: the library cannot be fetched, loaded or run.
        InputError: unknown language, or a text with nothing to say.
        KappaError: it crashed or was killed.
    """
    utterances = list(utterances)
    name = utterances[0][1].engine
    library, folder = assets.synthesiser(name)
    command = [sys.executable, "-m", "kappa_lib.speech.speaking_worker", name]
    command += [str(library), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as worker:
        for text, voice in utterances:
            _check_variant(folder, voice)
            samples, rate = _ask(worker, text, voice)
            speech = trim(samples.astype(np.float32) / 32768)
            yield np.clip(soxr.resample(speech, rate, RATE), -1.0, 1.0)


def _check_variant(folder: Path, voice: Voice) -> None:
    """Refuse a variant that eSpeak NG would silently replace by its plain voice."""
    variant = voice.name.partition("+")[2]
    known = folder / "espeak-ng-data" / "voices" / "!v"
    if variant and not (known / variant).is_file():
        names = sorted(path.name for path in known.iterdir())
        raise InputError(f"voice {voice.name!r}: no variant {variant!r}", f"one of {names}")


def _ask(worker: subprocess.Popen, text: str, voice: Voice) -> tuple[np.ndarray, int]:
    """int16 samples ``(n,)`` and their rate in Hz."""
    request = json.dumps([text, voice.name, voice.rate, voice.pitch]) + "\n"
    try:
        worker.stdin.write(request.encode())
        worker.stdin.flush()
    except BrokenPipeError:
        raise _dead(worker) from None
    header = worker.stdout.read(HEADER.size)
    if len(header) < HEADER.size:
        raise _dead(worker)
    rate, size = HEADER.unpack(header)
    if rate == -UNKNOWN_VOICE:
        raise InputError(
            f"voice {voice.name!r}: unknown to its synthesiser",
            "use one of the languages de and en",
        )
    if rate == -CRASHED:
        raise KappaError(f"{text!r}: the speech synthesiser crashed or was killed at it", _AGAIN)
    samples = np.frombuffer(worker.stdout.read(size), dtype="<i2")
    if rate < 0 or not samples.any():
        raise InputError(f"{text!r}: {voice.name} says nothing", "give a text with words in it")
    return samples, rate


def _dead(worker: subprocess.Popen) -> KappaError:
    """Why the worker answers no more. One that was killed can run: that is no missing asset, which
    a run would go on without."""
    with suppress(BrokenPipeError):  # of what it never read
        worker.stdin.close()
    if (status := worker.wait()) < 0:
        return KappaError(f"the speech synthesiser was killed by signal {-status}", _AGAIN)
    words = worker.stderr.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return UnreachableError(
        f"the speech synthesiser cannot run: {words[-1]}",
        "it needs the C++ runtime of the system (libstdc++ on Linux)",
    )
