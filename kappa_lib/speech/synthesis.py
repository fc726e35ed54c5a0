"""Matrix sentences, and synthetic voices: the same text and voice give the same samples, always.

A matrix sentence has five slots, name verb number adjective object, of ten words each. The form
is that of the audiology matrix tests: every sentence is grammatical, none can be guessed from its
other words, and a language has 10⁵ of them. The words are our own.
"""

import ctypes
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import chain
from multiprocessing import get_context

import numpy as np
import soxr
import yaml

from kappa_lib.errors import KappaError, UnreachableError
from kappa_lib.paths import DATA
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

# Of ``speak_lib.h`` of eSpeak NG 1.52.
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_WORDS_PER_MINUTE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_void_p
)
_PICO_RATE, _VOLUME = 16_000, 0.6  # louder, and it clips


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

    eSpeak NG carries state (oscillator phase, flutter) from one utterance into the next, even over
    its own terminate and initialise; SVOX Pico carries some, too.

    Returns:
        float32 ``(n,)`` at 16 kHz, within ±1, silence cut at both ends.

    Raises:
        UnreachableError: the library cannot be fetched, loaded or run.
        KappaError: it crashed or was killed, or knows no such voice.
    """
    library, folder = assets.synthesiser(voice.engine)
    engine = {"espeak": _espeak, "pico": _pico}[voice.engine]
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])  # once, and not for every utterance
    try:
        with ProcessPoolExecutor(1, context) as pool:
            rate, data = pool.submit(engine, str(library), str(folder), text, voice).result()
    except (OSError, ImportError) as error:
        raise UnreachableError(
            f"the speech synthesiser cannot run: {error}",
            "it needs the C++ runtime of the system (libstdc++ on Linux)",
        ) from error
    except (LookupError, RuntimeError) as error:
        raise KappaError(
            f"{text!r}: the speech synthesiser crashed or was killed at it, or has no voice"
            f" {voice.name}: {error}",
            "call again; if it was the system that did it, free some memory first",
        ) from error
    samples = np.frombuffer(data, np.int16).astype(np.float32) / 32768
    return np.clip(soxr.resample(trim(samples), rate, RATE), -1.0, 1.0)


def _espeak(library: str, folder: str, text: str, voice: Voice) -> tuple[int, bytes]:
    """Rate in Hz and int16 samples."""
    engine, blocks = ctypes.CDLL(library), []
    frequency = engine.espeak_Initialize(_SYNCHRONOUS, 0, folder.encode(), _DONT_EXIT)
    if frequency <= 0:
        raise OSError(f"{folder}: eSpeak NG finds no data there")
    # Breathy voices add noise, seeded from the clock unless told otherwise.
    engine.espeak_ng_SetRandSeed(ctypes.c_long(1))

    @_CALLBACK
    def collect(samples: "ctypes._Pointer", count: int, _events: int | None) -> int:
        if count > 0 and samples:
            blocks.append(samples[: 2 * count])
        return 0

    engine.espeak_SetSynthCallback(collect)
    if engine.espeak_SetVoiceByName(voice.name.encode()):
        raise LookupError(voice.name)
    engine.espeak_SetParameter(_WORDS_PER_MINUTE, voice.rate, 0)
    engine.espeak_SetParameter(_PITCH, voice.pitch, 0)
    data = text.encode() + b"\0"
    engine.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
    return frequency, b"".join(blocks)


def _pico(library: str, folder: str, text: str, voice: Voice) -> tuple[int, bytes]:
    """As :func:`_espeak`, by SVOX Pico."""
    loader = ExtensionFileLoader("_nanotts", library)
    engine = module_from_spec(spec_from_loader("_nanotts", loader))
    loader.exec_module(engine)
    how = {"speed": voice.rate / 100, "pitch": voice.pitch / 100, "volume": _VOLUME}
    data = os.path.join(folder, "lang")
    return _PICO_RATE, engine.speak(text=text, lingware_path=data, voice=voice.name, **how)
