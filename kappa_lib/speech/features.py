"""From corpora to encoded utterances: what training and evaluation read."""

from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256

from datasets import Dataset, DatasetDict
from torch import Tensor

from kappa_lib import distributed
from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import fingerprint, write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import Stages, say
from kappa_lib.speech import audio, corpora, encoder, recorded
from kappa_lib.speech.hub_speech import SOURCES
from kappa_lib.speech.own_speech import OwnSpeech
from kappa_lib.speech.transcripts import normalise
from kappa_lib.weights import models


@dataclass(frozen=True)
class TestSet:
    """One corpus' test split, encoded."""

    __test__ = False  # not a pytest class

    corpus: str
    language: str
    ids: list[str]
    texts: list[str]
    features: list[Tensor]


@dataclass(frozen=True)
class SpeechData:
    """Encoded utterances of all corpora.

    ``features`` hold one (frames, width) float16 tensor an utterance; ``missing`` names corpora
    that could not be had and why; ``left_out`` holds corpus → part → reason → unusable rows;
    ``used`` corpus → part → rows; ``own`` the fingerprint of a user's recordings, which may change
    under the same ids and texts.
    """

    ids: list[str]
    texts: list[str]
    features: list[Tensor]
    tests: list[TestSet]
    missing: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    used: dict[str, dict[str, int]] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Fingerprint of every utterance's id and text, training and test, and of ``own``."""
        tests = [[t.corpus, t.ids, t.texts] for t in self.tests]
        return fingerprint([self.ids, self.texts, tests, *filter(None, [self.own])])

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

    A corpus of the laptop's that can't be had is left out and named in ``missing``. LibriSpeech,
    Multilingual LibriSpeech and one's own corpora are what their profiles are about: without them
    it stops.

    Raises:
        AssetError, InputError: one of these can't be had, or has no usable row; or nothing is left
            to train or to test on.
    """
    data, progress = SpeechData([], [], [], []), Stages()

    @cache
    def make_encoder() -> encoder.Encoder:
        return encoder.load(profile.encoder, models.pick_device(profile.device).type)

    for corpus in sorted(profile.train_utterances.keys() | profile.test_utterances.keys()):
        counts = profile.train_utterances.get(corpus, 0), profile.test_utterances.get(corpus, 0)
        if counts == (0, 0):
            continue
        with distributed.main_process_first():
            parts = _build(data, profile, corpus, counts)
        # A mirror that answers one process and not another must not leave them with other data.
        reasons = distributed.all_gather({distributed.rank(): data.missing.get(corpus)})
        if why := next(filter(None, reasons), None):
            parts, data.missing[corpus] = DatasetDict(), why
        for part, items in parts.items():
            recordings = [sha256(row["audio"]["bytes"]).hexdigest() for row in items]
            if corpus in profile.corpora:
                data.own[f"{corpus} {part}"] = fingerprint(recordings)
            encoded = encoder.encode_all(
                items,
                audio.decode,
                {"encoder": encoder.identity(profile.encoder), "recordings": recordings},
                make_encoder,
                partial(progress, f"encoding {corpus}"),
            )
            _append(data, corpus, profile.language(corpus), part, items, encoded)
    if not data.features or not data.tests:
        raise InputError(
            f"profile {profile.profile}: nothing to {'test' if data.features else 'train'} on",
            "raise the counts under train_utterances and test_utterances, or see what is missing",
        )
    if distributed.is_main_process():
        write_json(profile.folder / "split.json", {"sha256": data.key, **_split(data)})
    return data


def _build(data: SpeechData, profile: Profile, corpus: str, counts: tuple[int, int]) -> DatasetDict:
    """The rows of a corpus; what is missing or was left out is noted in ``data``."""
    own = {name: OwnSpeech(**settings) for name, settings in profile.corpora.items()}
    if source := (SOURCES | own).get(corpus):
        built = recorded.build(corpus, source, *counts, profile.seed)
        data.left_out[corpus] = recorded.left_out(corpus, source, *counts, profile.seed)
        return built
    try:
        return corpora.build(corpus, *counts, profile.seed)
    except AssetError as error:
        data.missing[corpus] = str(error)
        say(f"WITHOUT {corpus}: the run goes on without these recordings. {error}")
        return DatasetDict()


def _append(
    data: SpeechData,
    corpus: str,
    language: str,
    part: str,
    items: Dataset,
    features: list[Tensor],
) -> None:
    if part == "train":
        data.ids.extend(items["id"])
        data.texts.extend(items["text"])
        data.features.extend(features)
        data.used.setdefault(corpus, {})[part] = len(features)
        return
    keep = [i for i, text in enumerate(items["text"]) if normalise(text, language)]
    if emptied := len(items) - len(keep):
        reasons = data.left_out.setdefault(corpus, {}).setdefault(part, {})
        reasons["nothing left by the normaliser"] = emptied
    if not keep:
        return
    columns = ([column[i] for i in keep] for column in (items["id"], items["text"], features))
    data.tests.append(TestSet(corpus, language, *columns))
    data.used.setdefault(corpus, {})[part] = len(keep)


def _split(data: SpeechData) -> dict:
    return {
        "missing": data.missing,
        "left_out": data.left_out,
        "used": data.used,
        "train": dict(zip(data.ids, data.texts, strict=True)),
        "test": {t.corpus: dict(zip(t.ids, t.texts, strict=True)) for t in data.tests},
    }
