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
NOT_LOADED = 3  # exit status

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_void_p
)


def espeak(
    library: str, folder: str, text: str, voice: str, rate: int, pitch: int
) -> tuple[int, bytes]:
    """Rate in Hz and int16 samples; rates are words per minute, pitches 0 to 99.

    Raises:
        OSError: it cannot be loaded, or finds no data.
        LookupError: unknown voice.
    """
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
    if engine.espeak_SetVoiceByName(voice.encode()):
        raise LookupError(voice)
    engine.espeak_SetParameter(_WORDS_PER_MINUTE, rate, 0)
    engine.espeak_SetParameter(_PITCH, pitch, 0)
    data = text.encode() + b"\0"
    engine.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
    return frequency, b"".join(blocks)


def pico(
    library: str, folder: str, text: str, voice: str, rate: int, pitch: int
) -> tuple[int, bytes]:
    """As :func:`espeak`; rates and pitches are per cent of a voice's own.

    Raises:
        ImportError: the library does not fit this Python or this machine.
        LookupError: unknown voice.
    """
    loader = ExtensionFileLoader("_nanotts", library)
    engine = module_from_spec(spec_from_loader("_nanotts", loader))
    loader.exec_module(engine)
    data = os.path.join(folder, "lang")
    if not any(name.startswith(voice) for name in os.listdir(data)):
        raise LookupError(voice)
    about = {"voice": voice, "speed": rate / 100, "pitch": pitch / 100, "volume": _VOLUME}
    return _PICO_RATE, engine.speak(text=text, lingware_path=data, **about)


def main(name: str, library: str, folder: str, voice: str, rate: str, pitch: str) -> int:
    """Exit status; the sound is written where it is 0."""
    text = sys.stdin.buffer.read().decode()
    speak = {"espeak": espeak, "pico": pico}[name]
    try:
        frequency, samples = speak(library, folder, text, voice, int(rate), int(pitch))
    except (OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return NOT_LOADED
    with wave.open(sys.stdout.buffer, "wb") as sound:
        sound.setparams((1, 2, frequency, len(samples) // 2, "NONE", ""))
        sound.writeframesraw(samples)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
