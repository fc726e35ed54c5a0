"""From corpora to encoded utterances: what training and evaluation read."""

from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

from datasets import DatasetDict
from torch import Tensor

from kappa_lib.errors import InputError, UnreachableError
from kappa_lib.files import fingerprint, write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import say
from kappa_lib.speech import audio, corpora, encoder, recorded
from kappa_lib.speech.sources import HUB, OwnSpeech
from kappa_lib.weights import models


@dataclass(frozen=True)
class Utterances:
    """A part of one corpus, encoded."""

    corpus: str
    language: str
    ids: list[str]
    texts: list[str]
    features: list[Tensor]  # (frames, width) float16 each; (tokens,) ids where the task is text


@dataclass(frozen=True)
class SpeechData:
    """Encoded utterances of all corpora; the first three are lists of the training items."""

    ids: list[str]
    texts: list[str]
    features: list[Tensor]
    tests: list[Utterances]  # one for each corpus
    missing: dict[str, str] = field(default_factory=dict)  # corpora that could not be had → why
    # corpus → part → reason → unusable rows
    left_out: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    used: dict[str, dict[str, int]] = field(default_factory=dict)  # corpus → part → rows
    # Fingerprints of a user's recordings and of their language, which decides how texts are
    # compared: both may change under the same ids and texts.
    own: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Fingerprint of every utterance's id and text, training and test, and of ``own``."""
        tests = [[t.corpus, t.ids, t.texts] for t in self.tests]
        return fingerprint([self.ids, self.texts, tests, *filter(None, [self.own])])

    def add(self, part: str, found: Utterances) -> None:
        """Take a part of a corpus: ``train`` to the training items, ``test`` as a test set."""
        if part == "train":
            self.ids.extend(found.ids)
            self.texts.extend(found.texts)
            self.features.extend(found.features)
        elif found.ids:
            self.tests.append(found)
        self.used.setdefault(found.corpus, {})[part] = len(found.ids)

    def first(self, counts: dict[str, int]) -> list[int]:
        """Indices of the first training items of each corpus, as many as asked for; all for {}.

        They were drawn in this order, so the first are a random sample.
        """
        if not counts:
            return list(range(len(self.ids)))
        chosen, start = [], 0
        for corpus, used in self.used.items():
            here = used.get("train", 0)
            chosen += range(start, start + min(here, counts.get(corpus, 0)))
            start += here
        return chosen


def load(profile: Profile) -> SpeechData:
    """Build (or find) every corpus of a profile, encode it, and write ``split.json``.

    A built-in corpus that is out of reach is left out and named in ``missing``.

    Raises:
        AssetError, InputError: another one can't be had, or has no usable row; what was kept of
            a corpus is damaged; or nothing is left to train or to test on.
        SpaceError: the disk is too full.
    """
    data = SpeechData([], [], [], [])

    @cache
    def make_encoder() -> encoder.Encoder:
        return encoder.load(profile.encoder, models.pick_device(profile.device).type)

    for corpus in sorted(profile.train_utterances.keys() | profile.test_utterances.keys()):
        language = profile.language(corpus)
        for part, items in _build(data, profile, corpus).items():
            recordings = [sha256(row["audio"]["bytes"]).hexdigest() for row in items]
            if corpus in profile.corpora:
                data.own[f"{corpus} {part}"] = fingerprint([language, recordings])
            encoded = encoder.encode_all(
                items,
                audio.decode,
                {"encoder": encoder.identity(profile.encoder), "recordings": recordings},
                make_encoder,
                f"encoding {corpus}, {part}",
            )
            texts = items["text"][:]
            data.add(part, Utterances(corpus, language, items["id"][:], texts, encoded))
    if not data.features or not data.tests:
        raise InputError(
            f"profile {profile.profile}: nothing to {'test' if data.features else 'train'} on",
            "raise the counts under train_utterances and test_utterances, or see what is missing",
        )
    split = {
        "sha256": data.key,
        "missing": data.missing,
        "left_out": data.left_out,
        "used": data.used,
        "train": dict(zip(data.ids, data.texts, strict=True)),
        "test": {t.corpus: dict(zip(t.ids, t.texts, strict=True)) for t in data.tests},
    }
    write_json(profile.folder / "split.json", split)
    return data


def _build(data: SpeechData, profile: Profile, corpus: str) -> DatasetDict:
    """The rows of a corpus; what is missing or was left out is noted in ``data``."""
    counts = profile.train_utterances.get(corpus, 0), profile.test_utterances.get(corpus, 0)
    if counts == (0, 0):
        return DatasetDict()
    own = {name: OwnSpeech(**settings) for name, settings in profile.corpora.items()}
    source = (corpora.SOURCES | HUB | own)[corpus]
    try:
        parts, left_out = recorded.build(corpus, source, *counts, profile.seed)
    except UnreachableError as error:
        if corpus not in corpora.SOURCES:
            raise
        data.missing[corpus] = str(error)
        say(f"WITHOUT {corpus}: the run goes on without these recordings. {error}")
        return DatasetDict()
    if any(left_out.values()):
        data.left_out[corpus] = left_out
    return parts
