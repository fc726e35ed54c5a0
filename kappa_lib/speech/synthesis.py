"""The two synthesisers: ``python -I -S synthesis.py`` speaks the one text that it reads, as JSON.

It writes the rate in Hz, a line, then int16 samples. Every text has a process, since the libraries
carry state from one into the next (eSpeak NG the phase of its oscillator and its flutter, even over
its own terminate and initialise; SVOX Pico some as well), and since they may crash. It starts fast:
the standard library is all that it needs.
"""

import ctypes
import json
import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

# Of ``speak_lib.h`` of eSpeak NG 1.52.
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_WORDS_PER_MINUTE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_void_p
)
_PICO_RATE, _VOLUME = 16_000, 0.6  # louder, and it clips
CANNOT_RUN = 3  # exit status: the library or its data cannot be loaded here

Answer = tuple[int, bytes]  # rate in Hz, and int16 samples


def _espeak(library: str, folder: str, text: str, name: str, rate: int, pitch: int) -> Answer:
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
    if engine.espeak_SetVoiceByName(name.encode()):
        raise LookupError(name)
    engine.espeak_SetParameter(_WORDS_PER_MINUTE, rate, 0)
    engine.espeak_SetParameter(_PITCH, pitch, 0)
    data = text.encode() + b"\0"
    engine.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
    return frequency, b"".join(blocks)


def _pico(library: str, folder: str, text: str, name: str, rate: int, pitch: int) -> Answer:
    loader = ExtensionFileLoader("_nanotts", library)
    engine = module_from_spec(spec_from_loader("_nanotts", loader))
    loader.exec_module(engine)
    how = {"speed": rate / 100, "pitch": pitch / 100, "volume": _VOLUME}
    data = os.path.join(folder, "lang")
    return _PICO_RATE, engine.speak(text=text, lingware_path=data, voice=name, **how)


if __name__ == "__main__":
    engine, *request = json.load(sys.stdin)
    try:
        rate, samples = {"espeak": _espeak, "pico": _pico}[engine](*request)
    except (OSError, ImportError) as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT_RUN)
    sys.stdout.buffer.write(b"%d\n" % rate + samples)
