"""A user's own recordings: any folder that ``datasets`` can read, split by sentence."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import soundfile
from datasets.exceptions import DatasetsError

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.speech.corpora import sentence_key
from kappa_lib.speech.encoder import MAX_SECONDS
from kappa_lib.speech.recorded import listing

# Transcripts stay as written: neither "null" nor "NA" is a missing value.
_TABLES = {
    "metadata.csv": partial(
        pd.read_csv, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
    ),
    "metadata.jsonl": partial(pd.read_json, lines=True, dtype=False),
    "metadata.parquet": pd.read_parquet,
}
# ImportError: of torchcodec, which audio in any other form than encoded bytes or a path needs.
_UNREADABLE = (OSError, ValueError, TypeError, ImportError, pa.ArrowException, DatasetsError)
_MEASURED = 200  # recordings whose length stands for all


@dataclass(frozen=True)
class OwnSpeech:
    """A folder of recordings, a :class:`kappa_lib.speech.recorded.Source`.

    The folder may hold sound files beside a ``metadata.csv``, ``.jsonl`` or ``.parquet``
    (with ``file_name``, the convention of ``datasets``' AudioFolder), in the folder itself or one
    for each part; or Parquet files, or what ``save_to_disk`` wrote, both with an ``audio``
    column. All need a column with the transcript; one called ``speaker`` or ``speaker_id`` is
    kept. Any sampling rate from 8 kHz and any number of channels is taken.

    A part called ``test`` is what is tested on, where there is one; else sentences are drawn.
    In both cases no sentence of the test set is trained on.

    Attributes:
        folder: absolute, or starting with ``~``.
        language: ``en``, ``de``, …, the same for all rows.
        text: name of the transcript's column.
    """

    folder: str
    language: str
    text: str

    lower_case = False

    def place(self, corpus: str) -> str:
        """The folder."""
        return str(self._path)

    def origin(self, corpus: str) -> Any:
        """Every file of the folder, and how it is read."""
        self._check_folder()
        return [listing(self._path), self.language, self.text]

    def items(
        self, corpus: str, counts: dict[str, int], seed: int
    ) -> dict[str, Iterator[dict[str, Any]]]:
        """Undecoded rows of ``test`` and ``train`` in an order that ``seed`` shuffles.

        Training rows leave out every sentence that was handed out for testing before.

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

        def test() -> Iterator[dict[str, Any]]:
            for index in order:
                fits = index in given if given else keys[index] and keys[index] not in tested
                if fits:
                    tested.add(keys[index])
                    yield _item(rows, index)

        def train() -> Iterator[dict[str, Any]]:
            for index in order:
                if index not in given and keys[index] not in tested:
                    yield _item(rows, index)

        return {"test": test(), "train": train()}

    def rows(self) -> tuple[datasets.Dataset, frozenset[int]]:
        """All rows, undecoded, and the positions of those in a part called ``test``.

        Raises:
            InputError: not a folder, not readable as a dataset, or a column is missing.
        """
        self._check_folder()
        with _readable(self._path):
            parts = _parts(self._path)
            for name, part in parts.items():
                if missing := {"audio", self.text} - set(part.column_names):
                    raise InputError(
                        f"{self._path}: part {name} has no column {', '.join(sorted(missing))}",
                        f"name the transcripts' column; it has {', '.join(part.column_names)}",
                    )
            typed = {"audio": datasets.Audio(decode=False), self.text: datasets.Value("string")}
            rows = datasets.concatenate_datasets(
                [part.cast(datasets.Features(part.features | typed)) for part in parts.values()]
            )
        offsets = np.cumsum([0, *(len(part) for part in parts.values())])
        where = {name: range(*offsets[i : i + 2]) for i, name in enumerate(parts)}
        given = where["test"] if "test" in parts and len(parts) > 1 else ()
        return rows, frozenset(given)

    def seconds(self) -> tuple[float, float]:
        """Mean and greatest length in seconds, of some of those that are not too long."""
        rows, _ = self.rows()
        found = []
        for index in range(0, len(rows), -(-len(rows) // _MEASURED)):
            audio = rows[index]["audio"] or {}
            try:
                source = io.BytesIO(audio["bytes"]) if audio.get("bytes") else audio["path"]
                duration = soundfile.info(source).duration
            except (soundfile.SoundFileError, OSError, KeyError, TypeError):
                continue  # a run leaves it out, too, and says so
            if duration <= MAX_SECONDS:
                found.append(duration)
        return (sum(found) / len(found), max(found)) if found else (0.0, 0.0)

    @property
    def _path(self) -> Path:
        return Path(self.folder).expanduser()

    def _check_folder(self) -> None:
        if not self._path.is_dir():
            raise InputError(f"{self._path}: no such folder", "give the folder of the recordings")


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """One error for whatever a folder's content makes ``datasets`` raise, and no progress bars."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # they would write to stderr
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{folder}: not readable as a dataset: {reason}",
            "it needs sound files and a metadata.csv, Parquet files, or a save_to_disk folder",
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _item(rows: datasets.Dataset, index: int) -> dict[str, Any]:
    return {**rows[index], "id": f"{index:06d}"}


def _parts(folder: Path) -> dict[str, datasets.Dataset]:
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    if (folder / "dataset_info.json").is_file():
        return {"train": datasets.load_from_disk(str(folder))}
    patterns = [pattern for name in _TABLES for pattern in (name, f"*/{name}")]
    found = [table for pattern in patterns for table in sorted(folder.glob(pattern))]
    parts = {table.parent.name: _sound_files(table) for table in found}
    if parts:
        return parts
    if any(folder.rglob("*.parquet")):
        cache = str(paths.cache() / "datasets")
        return datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=cache)
    raise ValueError(f"no {' or '.join(_TABLES)} and no Parquet file in it")


def _sound_files(table: Path) -> datasets.Dataset:
    """The rows of a metadata table; its ``file_name`` is relative to the table's folder.

    ``datasets`` reads such folders too, but only with torchcodec and FFmpeg installed.
    """
    frame = _TABLES[table.name](table)
    if frame.empty or "file_name" not in frame:
        raise ValueError(f"{table} has no rows with a file_name")
    frame = frame.astype(str).where(frame.notna(), None)
    sounds = [{"bytes": None, "path": str(table.parent / str(name))} for name in frame["file_name"]]
    features = datasets.Features({str(name): datasets.Value("string") for name in frame})
    features["audio"] = datasets.Audio(decode=False)
    columns = {str(name): frame[name].tolist() for name in frame}
    return datasets.Dataset(
        pa.Table.from_pydict({**columns, "audio": sounds}, schema=features.arrow_schema)
    )
