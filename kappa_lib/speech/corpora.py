"""The built-in corpora, split by sentence: four synthetic, ``en_human`` and ``en_actors`` real.

``de`` and ``en`` are matrix sentences, in the form of the audiology matrix tests: five slots (name
verb number adjective object) of ten words each, which are our own; every sentence is grammatical,
and none can be guessed from its other words. ``de_open`` and ``en_open`` are sentences from books,
whose words a language model can guess from one another; ``en_human`` a telephone exchange's prompts
by one speaker; ``en_actors`` dialogues of an adventure game by thirty, some of them only tested.

A split is drawn from names and numbers alone, before there is any audio.
"""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soxr
import yaml

from kappa_lib.errors import InputError, KappaError, UnreachableError
from kappa_lib.paths import DATA
from kappa_lib.speech import adventure, audio, recorded, synthesis
from kappa_lib.speech.transcripts import sentence_key
from kappa_lib.text import bundled_text, text_metadata
from kappa_lib.weights import assets

# Each with a number that keeps its draws apart from the others'.
_SOURCES = {"de": 1, "en": 2, "en_human": 3, "de_open": 4, "en_open": 5, "en_actors": 6}
CORPORA = tuple(_SOURCES)
# Those that people spoke; the others are made by a synthesiser.
_ASSETS = {
    "en_human": "asterisk-core-sounds-en-g722",
    "en_actors": "flight-of-the-amazon-queen",
}
TEST_WORDS, TEST_SECONDS = 3, 6.0  # a recorded test prompt has at least, and takes at most
HELD_APART = 4  # one of so many speakers is only tested; never the one who speaks most
LONGEST = 12.0  # seconds; longer prompts are left out
SPEAKER = "allison-smith"
_FORMAT = 2  # raise when the same split would give other audio
_FEWER = "ask for fewer: in a profile, under train_utterances and test_utterances"
_BYTES_PER_SECOND = 8_000  # G.722 at 64 kbit/s

_VOICES = yaml.safe_load((DATA / "voices.yaml").read_text(encoding="utf-8"))
# language → the ten words of each slot
SLOTS = {name: [line.split() for line in lines] for name, lines in _VOICES["words"].items()}
PATIENCE = 60  # seconds for a text, which takes hundredths
COUNT = 10**5  # matrix sentences of a language
SPEAKERS: dict[str, dict[str, list[str]]] = _VOICES["speakers"]  # engine → language → names
RANGES = _VOICES["ranges"]  # engine → rates and pitches, lowest and highest


class Voice(NamedTuple):
    """A synthetic speaker."""

    engine: str  # ``espeak`` or ``pico``
    name: str  # eSpeak NG's language and variant, as in ``en-us+f3``; or Pico's, as in ``en-GB``
    rate: int  # words per minute, 80 to 450; Pico: per cent of the speaker's own
    pitch: int  # 0 to 99, 50 is the variant's own; Pico: per cent of the speaker's own


@dataclass(frozen=True)
class Utterance:
    """One row before it has audio: a voice for synthesis, or a recording and its length (s)."""

    id: str
    text: str
    speaker: str
    voice: Voice | None = None
    recording: str | bytes = ""  # a file's name, or for ``en_actors`` what is in it
    seconds: float = 0.0


Split = dict[str, list[Utterance]]  # ``train`` and ``test``


def split(corpus: str, train: int, test: int, seed: int) -> Split:
    """Draw the sentences of a corpus, none of which is in both parts.

    It needs no audio and, but for ``en_actors``, no network.

    The test part depends on ``seed`` alone: a larger ``test`` only adds to it, and ``train`` does
    not change it. Where a corpus is smaller than asked for (``en_human``), the training part is
    what the test part leaves.

    Raises:
        InputError: unknown corpus, or more test sentences than there are.
    """
    if corpus not in CORPORA:
        raise InputError(f"corpus {corpus!r}: unknown", f"one of {', '.join(CORPORA)}")
    draw = _recorded_split if corpus in _ASSETS else _synthetic_split
    return draw(corpus, train, test, seed)


def _synthetic_split(corpus: str, train: int, test: int, seed: int) -> Split:
    """Where more open sentences are trained on than there are, other voices say them again."""
    language, _, is_open = corpus.partition("_")
    sentences = bundled_text(corpus).splitlines() if is_open else None
    total = len(sentences) if is_open else COUNT
    if test >= total or (not is_open and train + test > total):
        asked = f"{test} test" if is_open else f"{train + test}"
        raise InputError(f"corpus {corpus}: {asked} sentences asked for, {total} exist", _FEWER)
    generator = np.random.default_rng([seed, _SOURCES[corpus]])
    order = generator.permutation(total).tolist()
    engine = "pico" if is_open else "espeak"
    speakers = SPEAKERS[engine][language]
    variations = generator.integers(0, 1 << 16, max(total, train + test)).tolist()

    def utterance(position: int) -> Utterance:
        again, place = divmod(max(0, position - test), total - test)
        index = order[test + place if position >= test else position]
        speaker = speakers[(position + again) % len(speakers)]
        text = sentences[index] if is_open else sentence(language, index)
        identity = f"{corpus}-{index:05d}" + (f"-{again + 1}" if again else "")
        return Utterance(identity, text, speaker, voice(engine, speaker, variations[position]))

    rows = [utterance(position) for position in range(test + train)]
    return {"train": rows[test:], "test": rows[:test]}


def sentence(language: str, index: int) -> str:
    """Matrix sentence number ``index``, 0 to 99,999; its digits choose the words."""
    digits = f"{index:05d}"
    return " ".join(words[int(d)] for words, d in zip(SLOTS[language], digits, strict=True))


def voice(engine: str, speaker: str, variation: int) -> Voice:
    """A speaker at one of its rates and pitches; any ``variation`` ≥ 0 gives one."""
    rates, pitches = (range(low, high + 1, 5) for low, high in RANGES[engine])
    rate, pitch = variation % len(rates), variation // len(rates) % len(pitches)
    return Voice(engine, speaker, rates[rate], pitches[pitch])


def _recorded_split(corpus: str, train: int, test: int, seed: int) -> Split:
    every = prompts(corpus)
    generator = np.random.default_rng([seed, _SOURCES[corpus]])
    shuffled = [every[i] for i in generator.permutation(len(every))]
    first, *others = [who for who, _ in Counter(p.speaker for p in every).most_common()]
    apart = set(generator.permutation(sorted(others))[: len(others) // HELD_APART].tolist())
    tested: dict[str, Utterance] = {}
    for row in shuffled:
        key = sentence_key(row.text)
        fits = row.seconds <= TEST_SECONDS and len(key.split()) >= TEST_WORDS
        if fits and row.speaker in (apart or {first}):
            tested.setdefault(key, row)
    if test > len(tested):
        what = f"corpus {corpus}: {test} test prompts asked for, {len(tested)} fit"
        raise InputError(what, _FEWER)
    chosen = dict(list(tested.items())[:test])
    rest = [r for r in shuffled if r.speaker not in apart and sentence_key(r.text) not in chosen]
    return {"train": rest[:train], "test": list(chosen.values())}


@cache
def prompts(corpus: str = "en_human") -> tuple[Utterance, ...]:
    """Every recording that is speech, has a transcript and is at most ``LONGEST`` long.

    Those of ``en_human`` are known from the manifest alone; nothing is fetched.
    """
    if corpus == "en_human":
        pins = assets.manifest(_ASSETS["en_human"])["files"].items()
        known = [(n, p["text"], SPEAKER, n, p["size"] / _BYTES_PER_SECOND) for n, p in pins]
    else:
        known = [
            (name, text, who, sound, audio.seconds(_recorded(sound)))
            for name, text, who, sound in adventure.lines(_asset(corpus).get() / "queen.1c")
            if not set("<([") & set(text)  # coughs and sighs
        ]
    return tuple(
        Utterance(f"{corpus}-{Path(name).with_suffix('')}", text, who, None, recording, length)
        for name, text, who, recording, length in known
        if text and length <= LONGEST
    )


def _recorded(data: bytes) -> dict[str, Any]:
    return {"audio": {"bytes": data, "path": None}}


def speak(text: str, voice: Voice) -> np.ndarray:
    """Speak a text: samples float32 ``(n,)`` at 16 kHz, within ±1, silence cut at both ends.

    They depend on text and voice alone, whatever was said before. UnreachableError where the
    library cannot be fetched, loaded or run; KappaError where it crashed, hung or was killed, or
    knows no such voice.
    """
    library, folder = assets.synthesiser(voice.engine)
    request = json.dumps([voice.engine, str(library), str(folder), text, *voice[1:]]).encode()
    command = [sys.executable, "-I", "-S", synthesis.__file__]
    how = {"capture_output": True, "check": True, "timeout": PATIENCE}
    try:
        answer = subprocess.run(command, input=request, **how).stdout
    except subprocess.SubprocessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip()
        if getattr(error, "returncode", None) == synthesis.CANNOT_RUN:
            what = f"the speech synthesiser cannot run: {said}"
            remedy = "it needs the C++ runtime of the system (libstdc++ on Linux)"
            raise UnreachableError(what, remedy) from error
        raise KappaError(
            f"{text!r}: the speech synthesiser crashed, hung or was killed at it, or has no voice"
            f" {voice.name}: {said.rpartition(chr(10))[2] or error}",
            "call again; if it was the system that did it, free some memory first",
        ) from error
    rate, _, data = answer.partition(b"\n")
    samples = np.frombuffer(data, np.int16).astype(np.float32) / 32768
    samples = soxr.resample(audio.trim(samples), int(rate), audio.RATE)
    return np.clip(samples, -1.0, 1.0)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in corpus as :mod:`kappa_lib.speech.recorded` reads it."""

    language: str

    def origin(self, corpus: str) -> Any:
        """What is pinned: the asset, and the text of open sentences."""
        return [_FORMAT, _asset(corpus).key, text_metadata().get(corpus, {}).get("sha256")]

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, recorded.Rows]:
        """Rows that give their samples when asked."""
        _asset(corpus).get()
        drawn = split(corpus, counts["train"], counts["test"], seed)

        def item(row: Utterance) -> dict[str, Any]:
            name = row.id.removeprefix(f"{corpus}-")
            known = {"id": name, "text": row.text}
            if corpus == "en_actors":
                return known | _recorded(row.recording)
            if row.voice:
                return known | {"speak": partial(speak, row.text, row.voice)}
            path = _asset(corpus).folder / row.recording
            return known | {"speak": lambda: audio.trim(decode_g722(path))}

        return {part: map(item, rows) for part, rows in drawn.items()}


SOURCES = {corpus: BuiltIn(corpus[:2]) for corpus in CORPORA}


def _asset(corpus: str) -> assets.Asset:
    spoken = "svox-pico" if corpus.endswith("_open") else "espeak-ng"
    return assets.asset(_ASSETS.get(corpus, spoken))


def decode_g722(path: Path) -> np.ndarray:
    """Samples float32 ``(n,)`` at 16 kHz of a headerless G.722 file."""
    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768
