"""Speech from text by eSpeak NG: the same text and voice give the same samples, always."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import numpy as np
import soxr

from kappa_lib.errors import AssetError, InputError
from kappa_lib.paths import ROOT
from kappa_lib.speech.audio import RATE, trim
from kappa_lib.speech.espeak_worker import HEADER, UNKNOWN_VOICE
from kappa_lib.weights import assets


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Args:
        name: eSpeak language and variant, as in ``en-us+f3``.
        rate: words per minute, 80 to 450.
        pitch: 0 to 99, 50 is the variant's own.
    """

    name: str
    rate: int = 165
    pitch: int = 50


def synthesise(utterances: Iterable[tuple[str, Voice]]) -> Iterator[np.ndarray]:
    """Speak texts one after the other.

    Returns:
        for each text float32 ``(n,)`` at 16 kHz, within ±1, silence cut at both ends.

    Raises:
        AssetError: the library cannot be fetched, loaded or run.
        InputError: unknown language, or a text with nothing to say.
    """
    engine = assets.espeak()
    command = [sys.executable, "-m", "kappa_lib.speech.espeak_worker"]
    command += [str(engine.library), str(engine.folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as worker:
        for text, voice in utterances:
            _check_variant(engine, voice)
            samples, rate = _ask(worker, text, voice)
            yield _at_16_khz(samples, rate)


def _check_variant(engine: assets.Espeak, voice: Voice) -> None:
    """Refuse a variant that eSpeak NG would silently replace by its plain voice."""
    variant = voice.name.partition("+")[2]
    known = engine.folder / "espeak-ng-data" / "voices" / "!v"
    if variant and not (known / variant).is_file():
        names = sorted(path.name for path in known.iterdir())
        raise InputError(f"voice {voice.name!r}: no variant {variant!r}", f"one of {names}")


def _ask(worker: subprocess.Popen, text: str, voice: Voice) -> tuple[np.ndarray, int]:
    """int16 samples ``(n,)`` and their rate in Hz."""
    request = json.dumps([text, *astuple(voice)]) + "\n"
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
        raise InputError(f"voice {voice.name!r}: unknown to eSpeak NG", "use a de or en voice")
    samples = np.frombuffer(worker.stdout.read(size), dtype="<i2")
    if rate < 0 or not samples.any():
        raise InputError(f"{text!r}: {voice.name} says nothing", "give a text with words in it")
    return samples, rate


def _dead(worker: subprocess.Popen) -> AssetError:
    words = worker.stderr.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return AssetError(
        f"eSpeak NG cannot run: {words[-1]}",
        "it needs the C++ runtime of the system (libstdc++ on Linux)",
    )


def _at_16_khz(samples: np.ndarray, rate: int) -> np.ndarray:
    speech = trim(samples.astype(np.float32) / 32768)
    return np.clip(soxr.resample(speech, rate, RATE), -1.0, 1.0)
