"""Where recordings come from: the paper's two corpora, or a folder of a user's own.

Every source has the column of its transcripts (``text``), their ``language``, and whether they
are read in lower case. ``place`` is what a person calls it; ``origin``, JSON-serialisable, what
decides its rows; ``items`` gives undecoded rows of ``test`` and ``train``, shuffled, and those of
``test`` have to be read first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.exceptions import DatasetsError

from kappa_lib import paths
from kappa_lib.errors import AssetError, InputError, refuse_full_disk
from kappa_lib.speech import audio
from kappa_lib.speech.corpora import sentence_key
from kappa_lib.speech.encoder import MAX_SECONDS
from kappa_lib.weights import models

BUFFER = 1_000  # rows that are shuffled among each other while streaming
# Transcripts stay as written: neither "null" nor "NA" is a missing value.
_TABLES = {
    "metadata.csv": partial(
        pd.read_csv, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
    ),
    "metadata.jsonl": partial(pd.read_json, lines=True, dtype=False),
    "metadata.parquet": pd.read_parquet,
}
_SAVED = ("dataset_dict.json", "dataset_info.json")  # of save_to_disk, with parts and without
# ImportError: of torchcodec, which audio in any other form than encoded bytes or a path needs.
_UNREADABLE = (OSError, ValueError, TypeError, ImportError, pa.ArrowException, DatasetsError)
_MEASURED = 200  # recordings whose length stands for all

Rows = Iterator[dict[str, Any]]


def listing(folder: Path, pattern: str = "*") -> list[list[Any]]:
    """Relative path, bytes and time of change of every file below a folder, through links, too."""
    found = sorted(path for path in _below(folder) if fnmatchcase(path.name, pattern))
    return [[str(path.relative_to(folder)), *_state(path)] for path in found if path.is_file()]


def _below(folder: Path) -> Iterator[Path]:
    """What is below a folder; a link to a folder that holds the link itself is not followed."""
    inside = {str(folder): [folder.resolve()]}
    for place, folders, names in os.walk(folder, followlinks=True):
        yield from (Path(place, name) for name in names)
        for name in list(folders):
            path = os.path.join(place, name)  # as os.walk will call it
            real = Path(path).resolve()
            if any(above.is_relative_to(real) for above in inside[place]):
                folders.remove(name)
            inside[path] = [*inside[place], real]


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class HubCorpus:
    """A corpus streamed from the hub, or from Parquet files in the same layout.

    Those are looked for in ``$KAPPA_CORPORA/<corpus>`` where that is set.

    Attributes:
        repository, revision, config: of the hub's copy; its files are in a folder ``config``.
        train: splits that are trained on, one after the other.
        test: split that is tested on.
    """

    repository: str
    revision: str
    config: str
    train: tuple[str, ...]
    test: str
    text: str
    language: str

    # Neither corpus has punctuation; LibriSpeech's capitals alone would be a foreign script.
    lower_case = True

    def place(self, corpus: str) -> str:
        """The local folder, or the hub's id and revision."""
        return str(_local_folder(corpus) or f"{self.repository}@{self.revision[:7]}")

    def origin(self, corpus: str) -> Any:
        """What is pinned, and the local files where there are such."""
        local, pinned = _local_folder(corpus), asdict(self)
        return [pinned, listing(local, "*.parquet")] if local else pinned

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, Rows]:
        """A part's splits one after the other, each shuffled."""
        splits = {"test": (self.test,), "train": self.train}
        return {part: self._stream(corpus, names, seed) for part, names in splits.items()}

    def _stream(self, corpus: str, splits: tuple[str, ...], seed: int) -> Rows:
        for split, place in self._places(corpus, splits).items():
            with models.explained(f"{corpus} ({self.repository})"):
                rows = datasets.load_dataset(split=split, streaming=True, **place)
                rows = rows.cast_column("audio", datasets.Audio(decode=False))
                yield from rows.shuffle(seed=seed, buffer_size=BUFFER)

    def _places(self, corpus: str, splits: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Split → what ``load_dataset`` takes; of a local folder, the splits that it has.

        There a split is a folder of that name, or files with the name and a dash in front.
        """
        local = _local_folder(corpus)
        if local is None:
            pinned = {"path": self.repository, "name": self.config, "revision": self.revision}
            return dict.fromkeys(splits, pinned)
        root = local / self.config if (local / self.config).is_dir() else local
        every = sorted(root.rglob("*.parquet"))
        found = {}
        for split in splits:
            listed = [p for p in every if p.parent.name == split or p.name.startswith(f"{split}-")]
            if listed:
                found[split] = {"path": "parquet", "data_files": {split: [*map(str, listed)]}}
        if not found:
            raise AssetError(
                f"{local}: no Parquet file of split {' or '.join(splits)}",
                f"lay it out as the hub does: {self.config}/{splits[0]}/0000.parquet,"
                f" or {self.config}/{splits[0]}-00000-of-00001.parquet",
            )
        return found


SOURCES = {
    "librispeech": HubCorpus(
        "openslr/librispeech_asr",
        "71cacbfb7e2354c4226d01e70d77d5fca3d04ba1",
        "all",
        ("train.clean.100", "train.clean.360"),
        "test.clean",
        "text",
        "en",
    ),
    "mls_german": HubCorpus(
        "facebook/multilingual_librispeech",
        "2e83e61823b4c47dcbcb1980bb88601274127609",
        "german",
        ("train",),
        "test",
        "transcript",
        "de",
    ),
}


def _local_folder(corpus: str) -> Path | None:
    root = os.environ.get("KAPPA_CORPORA")
    if not root:
        return None
    folder = paths.expanded(root) / corpus
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder",
            "put the corpus' Parquet files there, or unset KAPPA_CORPORA to stream from the hub",
        )
    return folder


@dataclass(frozen=True)
class OwnSpeech:
    """A folder of recordings, split by sentence.

    The folder (absolute, or starting with ``~``) may hold sound files beside a ``metadata.csv``,
    ``.jsonl`` or ``.parquet`` (with ``file_name``, the convention of ``datasets``' AudioFolder),
    in the folder itself or one for each part; or Parquet files, or what ``save_to_disk`` wrote,
    both with an ``audio`` column. All need a column of transcripts, in one language; one called
    ``speaker`` or ``speaker_id`` is kept. Any sampling rate from 8 kHz and any number of
    channels is taken.

    A part called ``test`` is what is tested on, where there is one; else sentences are drawn.
    In both cases no sentence of the test set is trained on.
    """

    folder: str
    language: str  # its code, for instance en or de
    text: str  # name of the transcripts' column

    lower_case = False

    def place(self, corpus: str) -> str:
        """The folder."""
        return str(self._path)

    def origin(self, corpus: str) -> Any:
        """Every file of the folder or its metadata, and how it is read; errors of :meth:`rows`."""
        return [listing(self._path) + _elsewhere(self._path), self.language, self.text]

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, Rows]:
        """Training rows leave out every sentence that was handed out for testing before.

        Raises:
            InputError: see :meth:`rows`; or all sentences are asked for as a test set.
        """
        rows, given = self.rows()
        keys = [sentence_key(text or "") for text in rows[self.text]]
        if not given and counts["test"] >= (different := len(set(keys) - {""})):
            raise InputError(
                f"{counts['test']} test sentences asked for, {self._path} has {different}"
                " different ones",
                "ask for fewer: some must be left to train on",
            )
        order = np.random.default_rng(seed).permutation(len(rows)).tolist()
        tested = {keys[index] for index in given}

        def item(index: int) -> dict[str, Any]:
            return {**rows[index], "id": f"{index:06d}"}

        def test() -> Rows:
            for index in order:
                fits = index in given if given else keys[index] and keys[index] not in tested
                if fits:
                    tested.add(keys[index])
                    yield item(index)

        def train() -> Rows:
            for index in order:
                if keys[index] not in tested:
                    yield item(index)

        return {"test": test(), "train": train()}

    def rows(self) -> tuple[datasets.Dataset, set[int]]:
        """All rows, undecoded, and the positions of those in a part called ``test``.

        Raises:
            InputError: not a folder, not readable as a dataset, two tables of one part, or a
                column is missing.
        """
        folder = self._path
        with _readable(folder):
            parts, typed = _parts(folder), []
            for name, part in parts.items():
                if missing := {"audio", self.text} - set(part.column_names):
                    raise InputError(
                        f"{folder}: part {name} has no column {', '.join(sorted(missing))}",
                        f"name the transcripts' column; it has {', '.join(part.column_names)}",
                    )
                kinds = {"audio": datasets.Audio(decode=False), self.text: datasets.Value("string")}
                schema = datasets.Features(part.features | kinds).arrow_schema
                # ``Dataset.cast`` would write a copy beside the data: into the user's folder.
                typed.append(datasets.Dataset(part.data.cast(schema)))
            rows = datasets.concatenate_datasets(typed)
        names = [name for name, part in parts.items() for _ in range(len(part))]
        given = {i for i, name in enumerate(names) if name == "test"} if len(parts) > 1 else set()
        return rows, given

    def seconds(self) -> tuple[float, float]:
        """Mean and greatest length in seconds, of some of those that are not too long."""
        rows, _ = self.rows()
        found = []
        for index in range(0, len(rows), -(-len(rows) // _MEASURED)):
            duration = audio.seconds(rows[index])
            if 0 < duration <= MAX_SECONDS:  # a run leaves out the others, too, and says so
                found.append(duration)
        return (sum(found) / len(found), max(found)) if found else (0.0, 0.0)

    @property
    def _path(self) -> Path:
        path = paths.expanded(self.folder)
        if not path.is_dir():
            raise InputError(f"{path}: no such folder", "give the folder of the recordings")
        return path


Source = HubCorpus | OwnSpeech


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """One error for whatever a folder's content makes ``datasets`` raise, and no progress bars."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # they would write to stderr
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        refuse_full_disk(error, paths.cache() / "datasets")  # where Parquet files are unpacked to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{folder}: not readable as a dataset: {reason}",
            "it needs sound files and a metadata.csv, Parquet files, or a save_to_disk folder",
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _elsewhere(folder: Path) -> list[list[Any]]:
    """As :func:`listing`, the recordings that a folder's metadata names but that are not below."""
    with _readable(folder):
        named = {path for table in _tables(folder).values() for path in _read(table)["audio"][:]}
    here = Path(os.path.normpath(folder))
    outside = (path for path in map(os.path.normpath, named) if here not in Path(path).parents)
    return [[path, *_state(Path(path))] for path in sorted(outside) if os.path.isfile(path)]


def _parts(folder: Path) -> dict[str, datasets.Dataset]:
    if any((folder / name).is_file() for name in _SAVED):
        saved = datasets.load_from_disk(str(folder))
        return saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    if found := _tables(folder):
        return {part: _read(table) for part, table in found.items()}
    if any(folder.rglob("*.parquet")):
        cache = str(paths.cache() / "datasets")
        return datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=cache)
    raise ValueError(f"no {' or '.join(_TABLES)} and no Parquet file in it")


def _tables(folder: Path) -> dict[str, Path]:
    """Part → its metadata table; a part has the name of the folder that the table is in.

    None of what ``save_to_disk`` wrote.
    """
    if any((folder / name).is_file() for name in _SAVED):
        return {}
    patterns = [pattern for name in _TABLES for pattern in (name, f"*/{name}")]
    found: dict[str, Path] = {}
    for table in [table for pattern in patterns for table in sorted(folder.glob(pattern))]:
        other = found.setdefault(table.parent.name, table)
        if other != table:
            raise InputError(
                f"{folder}: both {other.relative_to(folder)} and {table.relative_to(folder)}"
                f" would be its part {table.parent.name}",
                "keep one table in each folder, and no folder in another of the same name",
            )
    return found


def _read(table: Path) -> datasets.Dataset:
    """The rows of a metadata table, texts all; ``audio`` is the path of the recording.

    ``datasets`` reads such folders too, but only with torchcodec and FFmpeg installed.
    """
    frame = _TABLES[table.name](table)
    if frame.empty or "file_name" not in frame:
        raise ValueError(f"{table} has no rows with a file_name")
    # As objects: a column of pandas' own strings would take None for NaN.
    frame = frame.astype(str).astype(object).where(frame.notna(), None)
    columns = {str(name): frame[name].tolist() for name in frame}
    sounds = [str(table.parent / str(name)) for name in columns["file_name"]]
    return datasets.Dataset.from_dict({**columns, "audio": sounds})
