"""From corpora to encoded utterances: what training and evaluation read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from datasets import Dataset, DatasetDict
from torch import Tensor

from kappa_lib import distributed
from kappa_lib.errors import AssetError
from kappa_lib.files import fingerprint, write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import say
from kappa_lib.speech import audio, corpora, encoder, recorded
from kappa_lib.speech.transcripts import normalise
from kappa_lib.weights import models


class Progress(Protocol):
    """Told what is going on, how much of it is done, of how much, and a note on the last step."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class TestSet:
    """One corpus' test split, encoded."""

    __test__ = False  # not a pytest class

    corpus: str
    ids: list[str]
    texts: list[str]
    features: list[Tensor]


@dataclass(frozen=True)
class SpeechData:
    """Encoded utterances of all corpora.

    ``features`` hold one (frames, width) float16 tensor an utterance; ``missing`` names corpora
    that could not be had and why; ``left_out`` holds corpus → part → reason → unusable rows.
    """

    ids: list[str]
    texts: list[str]
    features: list[Tensor]
    tests: list[TestSet]
    missing: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Fingerprint of every utterance's id and text, training and test."""
        tests = [[t.corpus, t.ids, t.texts] for t in self.tests]
        return fingerprint([self.ids, self.texts, tests])


def load(profile: Profile, progress: Progress | None = None) -> SpeechData:
    """Build (or find) every corpus of a profile, encode it, and write ``split.json``.

    A corpus of the laptop's that can't be had is left out and named in ``missing``. LibriSpeech
    and Multilingual LibriSpeech are what a profile of the paper's size is about: without them it
    stops.

    Raises:
        AssetError: one of these two can't be had.
    """
    data = SpeechData([], [], [], [])
    make = _encoder_factory(profile)
    for corpus in sorted(profile.train_utterances.keys() | profile.test_utterances.keys()):
        counts = profile.train_utterances.get(corpus, 0), profile.test_utterances.get(corpus, 0)
        if counts == (0, 0):
            continue
        with distributed.main_process_first():
            parts = _build(data, corpus, counts, profile.seed)
        # A mirror that answers one process and not another must not leave them with other data.
        reasons = distributed.all_gather({distributed.rank(): data.missing.get(corpus)})
        if why := next(filter(None, reasons), None):
            parts, data.missing[corpus] = DatasetDict(), why
        for split, items in parts.items():
            _append(data, corpus, split, items, _encode(items, profile, make, corpus, progress))
    if distributed.is_main_process():
        write_json(profile.folder / "split.json", {"sha256": data.key, **_split(data)})
    return data


def _build(data: SpeechData, corpus: str, counts: tuple[int, int], seed: int) -> DatasetDict:
    """The rows of a corpus; what is missing or was left out is noted in ``data``."""
    if corpus in recorded.SOURCES:
        built = recorded.build(corpus, *counts, seed)
        data.left_out[corpus] = recorded.left_out(corpus, *counts, seed)
        return built
    try:
        return corpora.build(corpus, *counts, seed)
    except AssetError as error:
        data.missing[corpus] = str(error)
        say(f"WITHOUT {corpus}: the run goes on without these recordings. {error}")
        return DatasetDict()


def _encoder_factory(profile: Profile) -> Callable[[], encoder.Encoder]:
    made: list[encoder.Encoder] = []

    def make() -> encoder.Encoder:
        if not made:
            made.append(encoder.load(profile.encoder, models.pick_device(profile.device).type))
        return made[0]

    return make


def _encode(
    items: Dataset,
    profile: Profile,
    make: Callable[[], encoder.Encoder],
    corpus: str,
    progress: Progress | None,
) -> list[Tensor]:
    recordings = [sha256(row["audio"]["bytes"]).hexdigest() for row in items]
    key = {"encoder": encoder.identity(profile.encoder), "recordings": recordings}

    def report(done: int, total: int) -> None:
        if progress:
            progress(f"encoding {corpus}", done, total)

    return encoder.encode_all(items, audio.decode, key, make, report)


def _append(
    data: SpeechData, corpus: str, split: str, items: Dataset, features: list[Tensor]
) -> None:
    if split == "train":
        data.ids.extend(items["id"])
        data.texts.extend(items["text"])
        data.features.extend(features)
        return
    keep = [i for i, text in enumerate(items["text"]) if normalise(text, corpus)]
    ids, texts = items["id"], items["text"]
    data.tests.append(
        TestSet(
            corpus, [ids[i] for i in keep], [texts[i] for i in keep], [features[i] for i in keep]
        )
    )


def _split(data: SpeechData) -> dict:
    return {
        "missing": data.missing,
        "left_out": data.left_out,
        "train": dict(zip(data.ids, data.texts, strict=True)),
        "test": {t.corpus: dict(zip(t.ids, t.texts, strict=True)) for t in data.tests},
    }
