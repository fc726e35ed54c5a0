"""The paper's two corpora: LibriSpeech and Multilingual LibriSpeech German, streamed.

Rows come through ``datasets`` from pinned revisions of the hub's copies, or from local folders of
Parquet files in the same layout (``KAPPA_CORPORA``). Audio stays encoded until soundfile decodes
it; what is kept is a typed row with 16-bit FLAC at 16 kHz, as of every other corpus here.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soxr

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, InputError
from kappa_lib.speech import audio, encoder
from kappa_lib.weights import hub
from kappa_lib.weights.fetch import Progress, say

BUFFER = 1_000  # rows that are shuffled among each other while streaming
_FORMAT = 1  # raise when the same request would give other rows
_BYTES = 300_000  # FLAC of a mean utterance, rounded up


@dataclass(frozen=True)
class Source:
    """Where a corpus is and how its rows are called.

    Attributes:
        repository, revision: of the hub's copy.
        config: its configuration, also the folder of its files.
        train: splits that are trained on, one after the other.
        test: split that is tested on.
        text: column of the transcript.
        language: of all rows.
    """

    repository: str
    revision: str
    config: str
    train: tuple[str, ...]
    test: str
    text: str
    language: str

    def splits(self, part: str) -> tuple[str, ...]:
        """The splits behind ``train`` or ``test``."""
        return self.train if part == "train" else (self.test,)


SOURCES = {
    "librispeech": Source(
        "openslr/librispeech_asr",
        "71cacbfb7e2354c4226d01e70d77d5fca3d04ba1",
        "all",
        ("train.clean.100", "train.clean.360"),
        "test.clean",
        "text",
        "en",
    ),
    "mls_german": Source(
        "facebook/multilingual_librispeech",
        "2e83e61823b4c47dcbcb1980bb88601274127609",
        "german",
        ("train",),
        "test",
        "transcript",
        "de",
    ),
}


def local_folder(corpus: str) -> Path | None:
    """``$KAPPA_CORPORA/<corpus>`` where that is set: it replaces the hub's copy.

    Raises:
        InputError: set, and the folder is not there.
    """
    root = os.environ.get("KAPPA_CORPORA")
    if not root:
        return None
    folder = Path(root).expanduser() / corpus
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder",
            "put the corpus' Parquet files there, or unset KAPPA_CORPORA to stream from the hub",
        )
    return folder


@dataclass
class _Reader:
    """Turns a corpus' rows into rows with ``audio.FEATURES``, counting the rest."""

    corpus: str
    source: Source
    left_out: dict[str, Counter[str]] = field(
        default_factory=lambda: {part: Counter() for part in audio.PARTS}
    )

    def rows(self, stream: Iterator[dict[str, Any]], part: str) -> Iterator[dict[str, Any]]:
        """The usable rows of a stream."""
        for item in stream:
            try:
                yield self._row(item, part)
            except InputError as error:
                self.left_out[part][_reason(error)] += 1

    def _row(self, item: dict[str, Any], part: str) -> dict[str, Any]:
        # Neither corpus has punctuation; LibriSpeech's capitals alone would be a foreign script.
        text = (item[self.source.text] or "").lower()
        named = {"id": f"{self.corpus}-{item['id']}", "audio": item["audio"], "text": text}
        samples, rate = audio.read(named)
        speech = np.clip(soxr.resample(samples, rate, audio.RATE), -1.0, 1.0)
        audio.check(named, speech)
        seconds = speech.size / audio.RATE
        if seconds > encoder.MAX_SECONDS:
            raise InputError(f"{named['id']}: {seconds:.1f} s, longer than 30 s")
        return named | {
            "audio": {"bytes": audio.encode(speech), "path": None},
            "language": self.source.language,
            "corpus": self.corpus,
            "split": part,
            "speaker": str(item["speaker_id"]),
            "seconds": seconds,
        }


def _reason(error: InputError) -> str:
    """What is wrong with a row without its name, so that equal faults can be counted."""
    for known in ("no audio", "empty transcript", "longer than 30 s", "silent", "not readable"):
        if known in error.what:
            return known
    return "not usable"


def build(
    corpus: str, train: int, test: int, seed: int, progress: Progress = say
) -> datasets.DatasetDict:
    """Rows of a corpus, streamed once and kept; a second call reads what the first one kept.

    The order of a split is shuffled with ``seed`` (its files, and :data:`BUFFER` rows at a time)
    before the first rows are taken, so that few rows already have many speakers. Rows without
    audio or transcript, and utterances longer than the encoder's 30 s, are left out and counted;
    a split that ends before enough rows are found gives what it has.

    Args:
        corpus: ``librispeech`` or ``mls_german``.
        train: number of utterances to train on.
        test: number of utterances to test on.
        seed: of the order.
        progress: told what is read, what was left out, and what there is less of than asked for.

    Returns:
        ``train`` and ``test``, each with ``audio.FEATURES``; an empty part is absent.

    Raises:
        InputError: unknown corpus, negative count, missing local folder, or no usable row.
        AssetError: gated, unknown or out of reach; says what to do.
    """
    if corpus not in SOURCES:
        raise InputError(f"corpus {corpus!r}: unknown", f"one of {', '.join(SOURCES)}")
    if min(train, test, seed) < 0:
        raise InputError(f"corpus {corpus}: negative count or seed: {(train, test, seed)}")
    folder = _target(corpus, train, test, seed)
    if not folder.is_dir():
        _make(corpus, {"train": train, "test": test}, seed, folder, progress)
    return audio.load_parts(folder)


def left_out(corpus: str, train: int, test: int, seed: int) -> dict[str, dict[str, int]]:
    """Part → reason → rows that :func:`build` left out for this request."""
    return files.read_json(_target(corpus, train, test, seed) / "left_out.json")


def _target(corpus: str, train: int, test: int, seed: int) -> Path:
    """Folder of a request's rows; what decides them is in its name."""
    local = local_folder(corpus)
    origin: Any = asdict(SOURCES[corpus])
    if local:
        listing = [(p, p.stat()) for p in sorted(local.rglob("*.parquet"))]
        origin = [
            origin,
            [[str(p.relative_to(local)), s.st_size, s.st_mtime_ns] for p, s in listing],
        ]
    key = files.fingerprint([_FORMAT, origin, train, test, seed])[:32]
    return paths.cache() / "speech" / f"{corpus}-{key}"


def _make(corpus: str, counts: dict[str, int], seed: int, folder: Path, progress: Progress) -> None:
    source, reader = SOURCES[corpus], _Reader(corpus, SOURCES[corpus])
    files.require_space(folder, sum(counts.values()) * _BYTES)
    where = local_folder(corpus) or f"{source.repository}@{source.revision[:7]}"
    progress(f"speech {corpus}: reading {counts['train']} + {counts['test']} rows of {where}")
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        for part, count in counts.items():
            rows = islice(reader.rows(_stream(corpus, part, seed), part), count)
            audio.write_part(temporary, part, rows)
        files.write_json(temporary / "left_out.json", reader.left_out)
        found = {part: len(rows) for part, rows in audio.load_parts(temporary).items()}
        if missing := [part for part, count in counts.items() if count and not found.get(part)]:
            raise InputError(
                f"{where}: no usable row for {' and '.join(missing)}: {dict(reader.left_out)}",
                "check the files",
            )
    for part, count in counts.items():
        for reason, rows in reader.left_out[part].items():
            progress(f"speech {corpus}: {rows} {part} rows left out: {reason}")
        if found.get(part, 0) < count:
            progress(f"speech {corpus}: {count} {part} rows asked for, {found[part]} usable")


def _stream(corpus: str, part: str, seed: int) -> Iterator[dict[str, Any]]:
    """The undecoded rows of a part, split after split, each shuffled."""
    source = SOURCES[corpus]
    for split, files_of_split in _available(corpus, source.splits(part)).items():
        with hub.explained(f"{corpus} ({source.repository})"):
            rows = _open(source, split, files_of_split)
            rows = rows.cast_column("audio", datasets.Audio(decode=False))
            yield from rows.shuffle(seed=seed, buffer_size=BUFFER)


def _available(corpus: str, splits: tuple[str, ...]) -> dict[str, list[str]]:
    """Splits to read: all of the hub's, or those a local folder has, with their files."""
    local = local_folder(corpus)
    if local is None:
        return {split: [] for split in splits}
    config = SOURCES[corpus].config
    found = {split: _split_files(local, config, split) for split in splits}
    if not any(found.values()):
        raise AssetError(
            f"{local}: no Parquet file of split {' or '.join(splits)}",
            f"lay it out as the hub does: {config}/{splits[0]}/0000.parquet,"
            f" or {config}/{splits[0]}-00000-of-00001.parquet",
        )
    return {split: listed for split, listed in found.items() if listed}


def _split_files(local: Path, config: str, split: str) -> list[str]:
    """Parquet files of a split: in a folder of its name, or with its name and a dash in front."""
    root = local / config if (local / config).is_dir() else local
    return [
        str(path)
        for path in sorted(root.rglob("*.parquet"))
        if path.parent.name == split or path.name.startswith(f"{split}-")
    ]


def _open(source: Source, split: str, local_files: list[str]) -> datasets.IterableDataset:
    if local_files:
        return datasets.load_dataset(
            "parquet", data_files={split: local_files}, split=split, streaming=True
        )
    return datasets.load_dataset(
        source.repository, source.config, split=split, revision=source.revision, streaming=True
    )
