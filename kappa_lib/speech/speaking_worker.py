"""A process of its own in which a synthesiser speaks, every utterance in a fresh copy of it.

eSpeak NG carries state (oscillator phase, flutter) from one utterance into the next, even over
its own terminate and initialise; SVOX Pico carries some, too. A fork for each utterance starts
every one from the same state, so the samples depend on the text and the voice alone.

Constants and signatures follow ``speak_lib.h`` of eSpeak NG 1.52. A request on standard input is
a JSON line ``[text, voice name, rate, pitch]``; the answer on standard output is two
little-endian int32, rate in Hz (or minus an error code) and number of bytes, then int16 samples.
"""

import ctypes
import json
import os
import struct
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_WORDS_PER_MINUTE, _PITCH = 1, 3
_PICO_RATE, _VOLUME = 16_000, 0.6  # louder, and it clips
HEADER = struct.Struct("<ii")
UNKNOWN_VOICE, REFUSED, CRASHED = 1, 2, 3

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

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> tuple[int, bytes]:
        """Rate in Hz, or minus an error code, and int16 samples."""
        if self.library.espeak_SetVoiceByName(voice.encode()):
            return -UNKNOWN_VOICE, b""
        self.library.espeak_SetParameter(_WORDS_PER_MINUTE, rate, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode() + b"\0"
        size = ctypes.c_size_t(len(data))
        if self.library.espeak_Synth(data, size, 0, 0, 0, _UTF8, None, None):
            return -REFUSED, b""
        return self.rate, b"".join(self.blocks)


class Pico:
    """SVOX Pico; rates and pitches are per cent of a voice's own.

    Raises:
        ImportError: the library does not fit this Python or this machine.
    """

    def __init__(self, library: str, folder: str) -> None:
        loader = ExtensionFileLoader("_nanotts", library)
        self.module = module_from_spec(spec_from_loader("_nanotts", loader))
        loader.exec_module(self.module)
        self.data = os.path.join(folder, "lang")

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> tuple[int, bytes]:
        """Rate in Hz, or minus an error code, and int16 samples."""
        if not any(name.startswith(voice) for name in os.listdir(self.data)):
            return -UNKNOWN_VOICE, b""
        samples = self.module.speak(
            text=text,
            voice=voice,
            speed=rate / 100,
            pitch=pitch / 100,
            volume=_VOLUME,
            lingware_path=self.data,
        )
        return _PICO_RATE, samples


def _answer(code: int, samples: bytes) -> None:
    with os.fdopen(os.dup(1), "wb") as stream:
        stream.write(HEADER.pack(code, len(samples)) + samples)


def main() -> None:
    """Serve requests until standard input ends."""
    engine = {"espeak": Espeak, "pico": Pico}[sys.argv[1]](*sys.argv[2:4])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _answer(*engine.speak(*json.loads(line)))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            _answer(-CRASHED, b"")


if __name__ == "__main__":
    main()
