"""A program that speaks one utterance and ends: text on standard input, a WAV on standard output.

    python speaking_worker.py ENGINE LIBRARY FOLDER VOICE RATE PITCH

eSpeak NG carries state (oscillator phase, flutter) from one utterance into the next, even over
its own terminate and initialise; SVOX Pico carries some, too. In a process of its own each
utterance depends on its text and voice alone, and a crash is that utterance's.

Constants and signatures follow ``speak_lib.h`` of eSpeak NG 1.52.
"""

import ctypes
import os
import sys
import wave
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_WORDS_PER_MINUTE, _PITCH = 1, 3
_PICO_RATE, _VOLUME = 16_000, 0.6  # louder, and it clips
NOT_LOADED, UNKNOWN_VOICE = 3, 4  # exit statuses

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """eSpeak NG, initialised; rates are words per minute, pitches 0 to 99.

    Raises:
        OSError: it cannot be loaded, or finds no data.
    """

    def __init__(self, library: str, folder: str) -> None:
        self.library = ctypes.CDLL(library)
        self.rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, folder.encode(), _DONT_EXIT)
        if self.rate <= 0:
            raise OSError(f"{folder}: eSpeak NG finds no data there")
        self.blocks: list[bytes] = []
        # Breathy voices add noise, seeded from the clock unless told otherwise.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        # ctypes does not keep a callback alive; the attribute does.
        self.callback = _CALLBACK(self._collect)
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples: "ctypes._Pointer", count: int, _events: int | None) -> int:
        if count > 0 and samples:
            self.blocks.append(samples[: 2 * count])
        return 0

    def knows(self, voice: str) -> bool:
        return not self.library.espeak_SetVoiceByName(voice.encode())

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> bytes:
        """int16 samples, of the voice that :meth:`knows` has set."""
        self.library.espeak_SetParameter(_WORDS_PER_MINUTE, rate, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode() + b"\0"
        self.library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
        return b"".join(self.blocks)


class Pico:
    """SVOX Pico; rates and pitches are per cent of a voice's own.

    Raises:
        ImportError: the library does not fit this Python or this machine.
    """

    rate = _PICO_RATE

    def __init__(self, library: str, folder: str) -> None:
        loader = ExtensionFileLoader("_nanotts", library)
        self.module = module_from_spec(spec_from_loader("_nanotts", loader))
        loader.exec_module(self.module)
        self.data = os.path.join(folder, "lang")

    def knows(self, voice: str) -> bool:
        return any(name.startswith(voice) for name in os.listdir(self.data))

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> bytes:
        """int16 samples."""
        return self.module.speak(
            text=text,
            voice=voice,
            speed=rate / 100,
            pitch=pitch / 100,
            volume=_VOLUME,
            lingware_path=self.data,
        )


def main(name: str, library: str, folder: str, voice: str, rate: str, pitch: str) -> int:
    """Exit status; the sound is written where it is 0."""
    try:
        engine = {"espeak": Espeak, "pico": Pico}[name](library, folder)
    except (OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return NOT_LOADED
    if not engine.knows(voice):
        return UNKNOWN_VOICE
    samples = engine.speak(sys.stdin.buffer.read().decode(), voice, int(rate), int(pitch))
    with wave.open(sys.stdout.buffer, "wb") as sound:
        sound.setparams((1, 2, engine.rate, len(samples) // 2, "NONE", ""))
        sound.writeframesraw(samples)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
