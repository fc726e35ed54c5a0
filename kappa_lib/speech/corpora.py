"""The built-in corpora, split by sentence: four synthetic, ``en_human`` real.

``de`` and ``en`` are matrix sentences; ``de_open`` and ``en_open`` sentences from books, whose
words a language model can guess from one another; ``en_human`` are prompts of a telephone exchange.

A split is drawn from names and numbers alone, before there is any audio.
"""

from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np

from kappa_lib import files
from kappa_lib.errors import AssetError, InputError
from kappa_lib.speech import audio, recorded, synthesis
from kappa_lib.speech.synthesis import Voice
from kappa_lib.speech.transcripts import sentence_key
from kappa_lib.text import bundled_text, text_metadata
from kappa_lib.weights import assets

# Each with a number that keeps its draws apart from the others'.
_SOURCES = {"de": 1, "en": 2, "en_human": 3, "de_open": 4, "en_open": 5}
CORPORA = tuple(_SOURCES)
TEST_WORDS, TEST_SECONDS = 3, 6.0  # a human test prompt has at least, and takes at most
LONGEST = 12.0  # seconds; longer prompts are left out
SPEAKER = "allison-smith"
_FORMAT = 2  # raise when the same split would give other audio
_FEWER = "ask for fewer: in a profile, under train_utterances and test_utterances"
_BYTES_PER_SECOND = 8_000  # G.722 at 64 kbit/s


@dataclass(frozen=True)
class Prompt:
    """One recording: its name in the asset, what is said, how long it takes, and who speaks."""

    file: str
    text: str
    seconds: float
    speaker: str = SPEAKER


@dataclass(frozen=True)
class Utterance:
    """One row before it has audio: a voice for synthesis, or the name of a recording."""

    id: str
    text: str
    speaker: str
    voice: Voice | None = None
    file: str | None = None


@dataclass(frozen=True)
class Split:
    """What is trained on and what is tested; no sentence of one is in the other."""

    corpus: str
    seed: int
    train: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over every utterance, its text, speaker and part."""
        return files.fingerprint(asdict(self))


def split(corpus: str, train: int, test: int, seed: int) -> Split:
    """Draw the sentences of a corpus; needs no audio and no network.

    The test part depends on ``seed`` alone: a larger ``test`` only adds to it, and ``train`` does
    not change it. Where a corpus is smaller than asked for (``en_human``), the training part is
    what the test part leaves.

    Raises:
        InputError: unknown corpus, a negative count, or more test sentences than there are.
    """
    if corpus not in CORPORA:
        raise InputError(f"corpus {corpus!r}: unknown", f"one of {', '.join(CORPORA)}")
    if min(train, test, seed) < 0:
        what = f"corpus {corpus}: negative count or seed: {(train, test, seed)}"
        raise InputError(what, "give 0 or more")
    draw = _recorded_split if corpus == "en_human" else _synthetic_split
    return draw(corpus, train, test, seed)


def _synthetic_split(corpus: str, train: int, test: int, seed: int) -> Split:
    """Where more open sentences are trained on than there are, other voices say them again."""
    language, _, is_open = corpus.partition("_")
    sentences = bundled_text(corpus).splitlines() if is_open else None
    total = len(sentences) if is_open else synthesis.COUNT
    if test >= total or (not is_open and train + test > total):
        asked = f"{test} test" if is_open else f"{train + test}"
        raise InputError(f"corpus {corpus}: {asked} sentences asked for, {total} exist", _FEWER)
    generator = np.random.default_rng([seed, _SOURCES[corpus]])
    order = generator.permutation(total).tolist()
    speakers = (synthesis.PICO_SPEAKERS if is_open else synthesis.SPEAKERS)[language]
    variations = generator.integers(0, 1 << 16, max(total, train + test)).tolist()

    def utterance(position: int) -> Utterance:
        again, place = divmod(max(0, position - test), total - test)
        index = order[test + place if position >= test else position]
        speaker = speakers[(position + again) % len(speakers)]
        voice = synthesis.voice(speaker, variations[position])
        text = sentences[index] if is_open else synthesis.sentence(language, index)
        identity = f"{corpus}-{index:05d}" + (f"-{again + 1}" if again else "")
        return Utterance(identity, text, voice.name, voice)

    rows = [utterance(position) for position in range(test + train)]
    return Split(corpus, seed, tuple(rows[test:]), tuple(rows[:test]))


def _recorded_split(corpus: str, train: int, test: int, seed: int) -> Split:
    every = prompts()
    order = np.random.default_rng([seed, _SOURCES[corpus]]).permutation(len(every))
    shuffled = [every[i] for i in order]
    tested: dict[str, Prompt] = {}
    for prompt in shuffled:
        key = sentence_key(prompt.text)
        if prompt.seconds <= TEST_SECONDS and len(key.split()) >= TEST_WORDS:
            tested.setdefault(key, prompt)
    if test > len(tested):
        what = f"corpus {corpus}: {test} test prompts asked for, {len(tested)} fit"
        raise InputError(what, _FEWER)
    chosen = dict(list(tested.items())[:test])
    rest = [prompt for prompt in shuffled if sentence_key(prompt.text) not in chosen]

    def utterance(prompt: Prompt) -> Utterance:
        name = Path(prompt.file).with_suffix("")
        return Utterance(f"{corpus}-{name}", prompt.text, prompt.speaker, file=prompt.file)

    parts = rest[:train], chosen.values()
    return Split(corpus, seed, *(tuple(map(utterance, part)) for part in parts))


@cache
def prompts() -> tuple[Prompt, ...]:
    """Every recording that is speech, has a transcript and is at most ``LONGEST`` long.

    Known from the manifest alone; nothing is fetched.
    """
    every = (
        Prompt(name, entry["text"], entry["size"] / _BYTES_PER_SECOND)
        for name, entry in assets.asterisk_manifest()["files"].items()
    )
    return tuple(p for p in every if p.text and p.seconds <= LONGEST)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in corpus as :mod:`kappa_lib.speech.recorded` reads it."""

    language: str

    text = "text"
    lower_case = False

    def place(self, corpus: str) -> str:
        """The asset that it is made with."""
        return _asset(corpus).name

    def origin(self, corpus: str) -> Any:
        """What is pinned: the asset, and the text of open sentences."""
        return [_FORMAT, _asset(corpus).key, text_metadata().get(corpus, {}).get("sha256")]

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, recorded.Rows]:
        """Rows that give their samples when asked."""
        drawn = split(corpus, counts["train"], counts["test"], seed)
        _asset(corpus).get()

        def item(row: Utterance) -> dict[str, Any]:
            known = {"text": row.text, "speaker": row.speaker}
            known["id"] = row.id.removeprefix(f"{corpus}-")
            if row.voice:
                return {**known, "speak": partial(synthesis.speak, row.text, row.voice)}
            path = _asset(corpus).folder / row.file
            return {**known, "speak": lambda: audio.trim(decode_g722(path))}

        return {part: map(item, getattr(drawn, part)) for part in audio.PARTS}


SOURCES = {corpus: BuiltIn(corpus[:2]) for corpus in CORPORA}


def _asset(corpus: str) -> assets.Asset:
    if corpus == "en_human":
        return assets.asterisk_asset()
    return assets.synthesiser_asset("pico" if corpus.endswith("_open") else "espeak")


def build(corpus: str, train: int, test: int, seed: int) -> datasets.DatasetDict:
    """The rows of a :func:`split` with their audio, as :func:`kappa_lib.speech.recorded.build`.

    Raises:
        InputError: as :func:`split`.
        UnreachableError: synthesiser or recordings cannot be had; the caller decides whether to
            go on without.
        AssetError: what was kept is damaged.
    """
    if corpus not in SOURCES:
        raise InputError(f"corpus {corpus!r}: unknown", f"one of {', '.join(CORPORA)}")
    return recorded.build(corpus, SOURCES[corpus], train, test, seed)[0]


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
    if not frames or rate != audio.RATE:
        raise AssetError(f"{path}: no 16 kHz audio in it", "fetch the recordings anew")
    return np.concatenate(frames).astype(np.float32) / 32768
