"""A user's own recordings: sound files beside a table of their transcripts, or Parquet files."""

import csv
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetsError

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import states
from kappa_lib.speech.recorded import Rows
from kappa_lib.speech.transcripts import sentence_key

_TABLE = "metadata.csv"
_UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException, DatasetsError)


@dataclass(frozen=True)
class OwnSpeech:
    """A folder of recordings, split by sentence.

    The folder (absolute, or starting with ``~``) holds sound files beside a ``metadata.csv`` (with
    ``file_name``, the convention of ``datasets``' AudioFolder), in the folder itself or one for
    each part; or Parquet files with an ``audio`` column. All need a column of transcripts, in one
    language; one called ``speaker`` or ``speaker_id`` is kept.
    Any sampling rate from 8 kHz and any number of channels is taken.

    A folder or Parquet file with the word ``test`` in its name is what is tested on, where there
    is one; else sentences are drawn. In both cases no sentence of the test set is trained on.
    """

    folder: str
    language: str  # its code, for instance en or de
    text: str  # name of the transcripts' column

    lower_case = False

    def place(self, corpus: str) -> str:
        """The folder."""
        return str(self._path)

    def origin(self, corpus: str) -> Any:
        """Every table and recording, and how they are read; errors of :meth:`rows`."""
        rows, _ = self.rows()
        named = pc.struct_field(rows["audio"], "path").to_pylist()
        files = [*_tables(self._path), *map(Path, filter(None, named))]
        return [states(files), self.language, self.text]

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, Rows]:
        """Training rows leave out every sentence that was handed out for testing before.

        Raises:
            InputError: see :meth:`rows`; or all sentences are asked for as a test set.
        """
        rows, given = self.rows()
        keys = [sentence_key(text or "") for text in rows[self.text].to_pylist()]
        if not given and counts["test"] >= (different := len(set(keys) - {""})):
            asked = f"{counts['test']} test sentences asked for"
            what = f"{asked}, {self._path} has {different} different ones"
            raise InputError(what, "ask for fewer: some must be left to train on")
        order = np.random.default_rng(seed).permutation(len(keys)).tolist()
        tested = {keys[index] for index in given}

        def test() -> Rows:
            for index in order:
                drawn = keys[index] and keys[index] not in tested
                if index in given if given else drawn:
                    tested.add(keys[index])
                    yield row(rows, index)

        train = (row(rows, index) for index in order if keys[index] not in tested)
        return {"test": test(), "train": train}

    def rows(self) -> tuple[pa.Table, set[int]]:
        """All rows, undecoded, and the positions of those in a part called ``test``.

        ``audio`` is a struct of ``bytes`` and an absolute ``path``.

        Raises:
            InputError: not a folder, no table in it, or one that cannot be read as it stands or
                lacks a column.
        """
        folder, parts, tested = self._path, [], []
        try:
            for table in _tables(folder):
                parts.append(self._typed(table, _read(table)))
                words = re.split(r"[\W\d_]+", str(table.relative_to(folder)).lower())
                tested += ["test" in words] * len(parts[-1])
            rows = pa.concat_tables(parts, promote_options="default")
        except InputError:
            raise
        except _UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{folder}: not readable as a dataset: {reason}",
                "it needs sound files and a metadata.csv in UTF-8, or Parquet files, which a saved"
                " dataset's to_parquet writes",
            ) from error
        return rows, set() if all(tested) else {i for i, is_test in enumerate(tested) if is_test}

    def _typed(self, table: Path, part: pa.Table) -> pa.Table:
        names = part.column_names
        if missing := {"audio", self.text} - set(names):
            raise InputError(
                f"{table} has no column {', '.join(sorted(missing))}",
                f"name the transcripts' column; it has {', '.join(names)}",
            )
        columns = {"audio": _sounds(part["audio"], table.parent)}
        for name in (self.text, "speaker", "speaker_id"):
            if name in names:
                columns[name] = part[name].cast(pa.string())
        return pa.table(columns)

    @property
    def _path(self) -> Path:
        path = paths.expanded(self.folder)
        if not path.is_dir():
            raise InputError(f"{path}: no such folder", "give the folder of the recordings")
        return path.absolute()


def _tables(folder: Path) -> list[Path]:
    """The ``metadata.csv`` of a folder and of those in it; else every Parquet file below."""
    found = sorted([*folder.glob(_TABLE), *folder.glob(f"*/{_TABLE}")])
    found = found or sorted(folder.rglob("*.parquet"))
    if not found:
        raise ValueError(f"no {_TABLE} and no Parquet file in it")
    return found


def _read(table: Path) -> pa.Table:
    """The rows of a table, with a column ``audio``: in a ``metadata.csv`` the recordings' names.

    ``datasets`` reads such folders too, but only with torchcodec and FFmpeg installed.
    """
    if table.name == _TABLE:
        columns = _csv(table)
        if "file_name" not in columns:
            raise ValueError(f"{table} has no column file_name")
        rows = pa.table(columns | {"audio": columns["file_name"]})
    else:
        datasets.disable_progress_bars()  # they would write to stderr
        cache = str(paths.cache() / "datasets")
        rows = datasets.Dataset.from_parquet(str(table), cache_dir=cache).data.table
    if not len(rows):
        raise ValueError(f"{table} has no rows")
    return rows


def _csv(table: Path) -> dict[str, list[str]]:
    """Columns as they are written; a table in which a quotation mark is not closed is refused."""
    with table.open(encoding="utf-8-sig") as stream:
        lines, rows = csv.reader(stream, strict=True, skipinitialspace=True), []
        try:
            header = next(lines, [])
            for row in filter(None, lines):
                if any("\n" in cell for cell in row):
                    raise csv.Error("a field goes over several lines")
                if len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields under {len(header)} names")
                rows.append(row)
        except csv.Error as error:
            raise InputError(
                f"{table}, line {lines.line_num}: {error}",
                "close every quotation mark that begins a field, double those inside, and put a"
                " transcript with commas between two",
            ) from error
    if len(set(header)) < len(header):
        raise ValueError(f"{table} has two columns of one name")
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def _sounds(column: pa.ChunkedArray, folder: Path) -> pa.ChunkedArray:
    """Names of files, or structs of ``bytes`` and ``path``, as such structs with absolute paths."""
    chunks = []
    for chunk in column.chunks:
        are_names = pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type)
        if not are_names and not pa.types.is_struct(chunk.type):
            raise ValueError(f"audio is stored as {chunk.type}, neither encoded nor a path")
        names = chunk if are_names else chunk.field("path")
        data = pa.nulls(len(chunk), pa.binary()) if are_names else chunk.field("bytes")
        found = [None if name is None else _located(folder, name) for name in names.to_pylist()]
        fields = [data.cast(pa.large_binary()), pa.array(found, pa.string())]
        chunks.append(pa.StructArray.from_arrays(fields, names=["bytes", "path"]))
    return pa.chunked_array(chunks)


def _located(folder: Path, name: str) -> str:
    """Absolute path of a recording that a table names, if need be with its letters composed or
    decomposed, as other systems store names, or with slashes for backslashes."""
    spellings = [name, name.replace("\\", "/")]
    spellings += [unicodedata.normalize(form, x) for x in spellings for form in ("NFC", "NFD")]
    candidates = [os.path.join(folder, spelling) for spelling in spellings]
    return next(filter(os.path.isfile, candidates), candidates[0])


def row(rows: pa.Table, index: int) -> dict[str, Any]:
    """One of :meth:`OwnSpeech.rows`, with an ``id``."""
    return {**rows.slice(index, 1).to_pylist()[0], "id": f"{index:06d}"}
