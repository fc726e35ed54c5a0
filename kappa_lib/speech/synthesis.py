"""Matrix sentences, and synthetic voices: the same text and voice give the same samples, always.

A matrix sentence has five slots, name verb number adjective object, of ten words each. The form
is that of the audiology matrix tests: every sentence is grammatical, none can be guessed from its
other words, and a language has 10⁵ of them. The words are our own.
"""

import io
import subprocess
import sys
from dataclasses import dataclass
from itertools import chain

import numpy as np
import soundfile
import soxr
import yaml

from kappa_lib.errors import KappaError, UnreachableError
from kappa_lib.paths import DATA
from kappa_lib.speech import speaking_worker
from kappa_lib.speech.audio import RATE, trim
from kappa_lib.weights import assets

_VOICES = yaml.safe_load((DATA / "voices.yaml").read_text(encoding="utf-8"))
SLOTS = {
    language: tuple(tuple(line.split()) for line in lines)
    for language, lines in _VOICES["words"].items()
}
COUNT = 10**5  # sentences of a language
SPEAKERS: dict[str, dict[str, list[str]]] = _VOICES["speakers"]  # engine → language → names
RANGES = _VOICES["ranges"]  # engine → rates and pitches, lowest and highest


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
        return "pico" if self.name in chain(*SPEAKERS["pico"].values()) else "espeak"


def sentence(language: str, index: int) -> str:
    """Sentence number ``index`` of a language, 0 to 99,999; the digits choose the words."""
    digits = f"{index:05d}"
    return " ".join(words[int(d)] for words, d in zip(SLOTS[language], digits, strict=True))


def voice(speaker: str, variation: int) -> Voice:
    """A speaker at one of its rates and pitches; any ``variation`` ≥ 0 gives one."""
    rates, pitches = (range(low, high + 1, 5) for low, high in RANGES[Voice(speaker).engine])
    rate, pitch = variation % len(rates), variation // len(rates) % len(pitches)
    return Voice(speaker, rates[rate], pitches[pitch])


def speak(text: str, voice: Voice) -> np.ndarray:
    """Speak a text, in a process of its own: the samples depend on text and voice alone.

    Returns:
        float32 ``(n,)`` at 16 kHz, within ±1, silence cut at both ends.

    Raises:
        UnreachableError: the library cannot be fetched, loaded or run.
        KappaError: it crashed or was killed, or knows no such voice.
    """
    library, folder = assets.synthesiser(voice.engine)
    about = [voice.engine, library, folder, voice.name, voice.rate, voice.pitch]
    command = [sys.executable, "-I", "-S", speaking_worker.__file__, *map(str, about)]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode == speaking_worker.NOT_LOADED:
        raise UnreachableError(
            f"the speech synthesiser cannot run: {done.stderr.decode(errors='replace').strip()}",
            "it needs the C++ runtime of the system (libstdc++ on Linux)",
        )
    if done.returncode:
        raise KappaError(
            f"{text!r}: the speech synthesiser crashed or was killed at it ({done.returncode})",
            "call again; if it was the system that did it, free some memory first",
        )
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return np.clip(soxr.resample(trim(samples), rate, RATE), -1.0, 1.0)
