"""English as a person speaks it: the Asterisk telephone prompts, with cleaned transcripts."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np

from kappa_lib.errors import AssetError
from kappa_lib.speech.audio import RATE
from kappa_lib.weights import assets

LONGEST = 12.0  # seconds; longer prompts are left out
SPEAKER = "allison-smith"
_BYTES_PER_SECOND = 8_000  # G.722 at 64 kbit/s
_ASIDE = re.compile(r"\[[^]]*\]|\([^)]*\)|<[^>]*>")
_SPOKEN = {
    # How the speaker reads the keys of a telephone,
    "*": " star ",
    "#": " pound ",
    # and slips of spelling in the published transcripts, which no recogniser should be held to.
    "exclaimation-point": "exclamation point",
    "fourtieth": "fortieth",
    "represenatives": "representatives",
    "umute": "unmute",
    "Un-indentified": "Unidentified",
    "witheld": "withheld",
}


@dataclass(frozen=True)
class Prompt:
    """One recording: file name in the asset's folder, what is said, how long it takes."""

    file: str
    text: str
    seconds: float


@cache
def prompts() -> tuple[Prompt, ...]:
    """Every recording that is speech, has a transcript and is at most ``LONGEST`` long.

    Known from the manifest alone; nothing is fetched.
    """
    entries = assets.asterisk_manifest()["files"].items()
    all_of_them = (
        Prompt(name, clean(entry["text"]), entry["size"] / _BYTES_PER_SECOND)
        for name, entry in entries
    )
    return tuple(p for p in all_of_them if p.text and p.seconds <= LONGEST)


def clean(transcript: str) -> str:
    """What is said: no stage directions, no dots of omission, keys by their names.

    Empty where nothing is said (tones, silence, monkeys).
    """
    text = _ASIDE.sub(" ", transcript)
    for written, spoken in _SPOKEN.items():
        text = text.replace(written, spoken)
    text = " ".join(text.replace("...", " ").split())
    return text if any(character.isalnum() for character in text) else ""


def decode_g722(path: Path) -> np.ndarray:
    """Samples float32 ``(n,)`` at 16 kHz of a headerless G.722 file.

    Raises:
        AssetError: the file cannot be decoded.
    """
    try:
        with av.open(str(path), format="g722") as container:
            rate = container.streams.audio[0].rate
            frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    except (av.FFmpegError, OSError) as error:
        raise AssetError(f"{path}: {error}", "fetch the recordings anew") from error
    if not frames or rate != RATE:
        raise AssetError(f"{path}: no 16 kHz audio in it", "fetch the recordings anew")
    return np.concatenate(frames).astype(np.float32) / 32768
