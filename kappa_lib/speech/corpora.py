"""The built-in speech corpora, split by sentence: four synthetic, ``en_human`` real.

``de`` and ``en`` are matrix sentences; ``de_open`` and ``en_open`` sentences from books, whose
words a language model can guess from one another.

A split is drawn first, from names and numbers alone, and is a small file with a hash; the audio
is made from it once and kept as a typed Arrow dataset in the cache.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, InputError
from kappa_lib.progress import say, track
from kappa_lib.speech import audio, synthesis
from kappa_lib.speech.synthesis import Voice
from kappa_lib.text import bundled_text
from kappa_lib.weights import assets

# Each with a number that keeps its draws apart from the others'.
_SOURCES = {"de": 1, "en": 2, "en_human": 3, "de_open": 4, "en_open": 5}
CORPORA = tuple(_SOURCES)
TEST_WORDS, TEST_SECONDS = 3, 6.0  # a human test prompt has at least, and takes at most
_BYTES = 100_000  # FLAC of an utterance of 3 s is below this
_FORMAT = 2  # raise when the same split would give other audio
_FEWER = "ask for fewer: in a profile, under train_utterances and test_utterances"
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


@dataclass(frozen=True)
class Utterance:
    """One row before it has audio: a voice for synthesis, or the file of a recording."""

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


def sentence_key(text: str) -> str:
    """The words of a text alone: two texts with the same key are the same sentence."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "")
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


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
    draw = _human_split if corpus == "en_human" else _synthetic_split
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


def _human_split(corpus: str, train: int, test: int, seed: int) -> Split:
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

    def utterances(part: Iterable[Prompt]) -> tuple[Utterance, ...]:
        return tuple(
            Utterance(f"{corpus}-{p.file.removesuffix('.g722')}", p.text, SPEAKER, file=p.file)
            for p in part
        )

    return Split(corpus, seed, utterances(rest[:train]), utterances(chosen.values()))


def build(corpus: str, train: int, test: int, seed: int) -> datasets.DatasetDict:
    """The rows of a :func:`split` with their audio, from the cache where they were made before.

    Returns:
        ``train`` and ``test``, each with ``audio.FEATURES``; an empty part is absent.

    Raises:
        InputError: as :func:`split`.
        UnreachableError: synthesiser or recordings cannot be had; the caller decides whether to
            go on without.
        AssetError: what was kept is damaged.
    """
    drawn = split(corpus, train, test, seed)
    engine = "pico" if corpus.endswith("_open") else "espeak"
    human = corpus == "en_human"
    asset = assets.asterisk_asset() if human else assets.synthesiser_asset(engine)
    key = files.fingerprint([_FORMAT, drawn.hash, asset.key])[:32]
    folder = paths.cache() / "speech" / key
    if not folder.is_dir():
        say(f"speech {corpus}: making {len(drawn.train)} + {len(drawn.test)} utterances")
        files.require_space(folder, (len(drawn.train) + len(drawn.test)) * _BYTES)
        with audio.making(folder) as temporary:
            for part in audio.PARTS:
                audio.write_part(temporary, part, _rows(drawn, part))
            split_file = {"hash": drawn.hash, **asdict(drawn)}
            files.write_json(temporary / "split.json", split_file)
    parts = audio.load_parts(folder)
    for part in audio.PARTS:
        if (found := len(parts.get(part, ()))) != (expected := len(getattr(drawn, part))):
            raise AssetError(
                f"{folder}: {found} {part} utterances instead of {expected}",
                "delete the folder and run again",
            )
    return parts


def _rows(drawn: Split, part: str) -> Iterator[dict[str, Any]]:
    utterances = getattr(drawn, part)
    if not utterances:
        return
    if drawn.corpus == "en_human":
        folder = assets.asterisk_asset().get()
        spoken = (audio.trim(decode_g722(folder / u.file)) for u in utterances)
    else:
        spoken = synthesis.synthesise([(u.text, u.voice) for u in utterances])
    told = track(utterances, f"making speech {drawn.corpus}")
    for utterance, speech in zip(told, spoken, strict=True):
        yield audio.row(
            speech,
            id=utterance.id,
            text=utterance.text,
            language=drawn.corpus.partition("_")[0],
            corpus=drawn.corpus,
            split=part,
            speaker=utterance.speaker,
        )


@cache
def prompts() -> tuple[Prompt, ...]:
    """Every recording that is speech, has a transcript and is at most ``LONGEST`` long.

    Known from the manifest alone; nothing is fetched.
    """
    every = (
        Prompt(name, clean(entry["text"]), entry["size"] / _BYTES_PER_SECOND)
        for name, entry in assets.asterisk_manifest()["files"].items()
    )
    return tuple(p for p in every if p.text and p.seconds <= LONGEST)


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
    if not frames or rate != audio.RATE:
        raise AssetError(f"{path}: no 16 kHz audio in it", "fetch the recordings anew")
    return np.concatenate(frames).astype(np.float32) / 32768
