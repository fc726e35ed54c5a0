"""Where recordings come from: a folder of a user's own, or the paper's two corpora.

Both are sources as :mod:`kappa_lib.speech.recorded` reads them.
"""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetsError
from datasets.table import cast_array_to_feature
from pyarrow import csv

from kappa_lib import paths
from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import states
from kappa_lib.speech.audio import FEATURES
from kappa_lib.speech.recorded import Rows
from kappa_lib.speech.transcripts import sentence_key
from kappa_lib.weights import models

BUFFER = 1_000  # rows that are shuffled among each other while streaming
_TABLE = "metadata.csv"
_FORMAT = 3  # raise when the same folder would give other rows
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, ImportError)
_UNREADABLE += (pa.ArrowException, DatasetsError)


@dataclass(frozen=True)
class OwnSpeech:
    """A folder of recordings, split by sentence.

    The folder (absolute, or starting with ``~``) holds sound files beside a ``metadata.csv`` (with
    ``file_name``, the convention of ``datasets``' AudioFolder), in the folder itself or one for
    each part; or Parquet files with an ``audio`` column, of recordings or their absolute paths. All
    need a column of transcripts, in one language. Any sampling rate from 8 kHz and any number of
    channels is taken.

    A folder or Parquet file with the word ``test`` in its name is what is tested on, where there
    is one; else sentences are drawn. In both cases no sentence of the test set is trained on.
    """

    folder: str
    language: str  # its code, for instance en or de
    text: str  # name of the transcripts' column

    def origin(self, corpus: str) -> Any:
        """Every table and recording, and how they are read; errors of :meth:`rows`."""
        rows, _ = self.rows()
        named = filter(None, pc.struct_field(rows["audio"], "path").to_pylist())
        files = [*_tables(self._path), *map(Path, filter(os.path.isabs, named))]
        return [states(files), self.language, self.text, _FORMAT]

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, Rows]:
        """Training rows leave out every sentence that was handed out for testing before.

        InputError as of :meth:`rows`, or where all sentences are asked for as a test set.
        """
        rows, given = self.rows()
        keys = [sentence_key(text or "") for text in rows["text"].to_pylist()]
        if not given and counts["test"] >= (different := len(set(keys) - {""})):
            asked = f"{counts['test']} test sentences asked for"
            what = f"{asked}, {self._path} has {different} different ones"
            raise InputError(what, "ask for fewer: some must be left to train on")
        order = np.random.default_rng(seed).permutation(len(keys)).tolist()
        tested = {keys[index] for index in given}

        def row(index: int) -> dict[str, Any]:
            return {**rows.slice(index, 1).to_pylist()[0], "id": f"{index:06d}"}

        def test() -> Rows:
            for index in order:
                drawn = keys[index] and keys[index] not in tested
                if index in given if given else drawn:
                    tested.add(keys[index])
                    yield row(index)

        return {"test": test(), "train": (row(i) for i in order if keys[i] not in tested)}

    def rows(self) -> tuple[pa.Table, set[int]]:
        """All rows, undecoded, and the positions of those in a part called ``test``.

        ``audio`` is a struct of ``bytes`` and ``path``, ``text`` the transcript. InputError where
        there is no folder, no table in it, or one that cannot be read or lacks a column.
        """
        folder, parts, tested = self._path, [], []
        try:
            for table in _tables(folder):
                parts.append(self._read(table))
                words = re.split(r"[\W\d_]+", str(table.relative_to(folder)).lower())
                tested += ["test" in words] * len(parts[-1])
            rows = pa.concat_tables(parts, promote_options="default")
        except InputError:
            raise
        except _UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            remedy = "it needs sound files and a metadata.csv in UTF-8, or files of to_parquet"
            what = f"{folder}: not readable as a dataset: {reason}"
            raise InputError(what, remedy) from error
        return rows, set() if all(tested) else {i for i, is_test in enumerate(tested) if is_test}

    def _read(self, table: Path) -> pa.Table:
        """The columns of a table that are read: recordings and transcripts."""
        if table.name == _TABLE:
            # ``datasets`` reads such folders too, but only with torchcodec and FFmpeg installed.
            sound, lines = "file_name", csv.ParseOptions(newlines_in_values=True)
            how = csv.ConvertOptions(column_types={sound: pa.string(), self.text: pa.string()})
            part = csv.read_csv(table, parse_options=lines, convert_options=how)
        else:
            datasets.disable_progress_bars()  # they would write to stderr
            cache = str(paths.cache() / "datasets")
            sound = "audio"
            part = datasets.Dataset.from_parquet(str(table), cache_dir=cache).data.table
        names = part.column_names
        if missing := {sound, self.text} - set(names):
            what = f"{table} has no column {', '.join(sorted(missing))}"
            raise InputError(what, f"name the transcripts' column; it has {', '.join(names)}")
        if not len(part):
            raise ValueError(f"{table} has no rows")
        recordings, texts = part[sound], part[self.text].cast(pa.string())
        if table.name == _TABLE:
            at = pc.match_substring(texts, "\n").index(True).as_py()
            if at >= 0:  # it has swallowed the rows below
                what = f"{table}: the transcript of {recordings[at]} goes over several lines"
                remedy = "close every quotation mark that begins a field, double those inside"
                raise InputError(what, remedy)
            places = [name and str(table.parent / name) for name in recordings.to_pylist()]
            recordings = pa.array(places, pa.string())
        sounds = cast_array_to_feature(recordings, FEATURES["audio"])
        return pa.table({"audio": sounds, "text": texts})

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


@dataclass(frozen=True)
class HubCorpus:
    """A corpus of the hub, or in its layout in ``$KAPPA_CORPORA/<corpus>`` where that is set."""

    repository: str
    revision: str
    config: str  # also the folder of its files
    train: tuple[str, ...]  # splits, one after the other
    test: str
    text: str
    language: str

    def origin(self, corpus: str) -> Any:
        """What is pinned, and the local files where there are such."""
        local, pinned = _local_folder(corpus), asdict(self)
        return [pinned, states(local.rglob("*.parquet"))] if local else pinned

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, Rows]:
        """A part's splits one after the other, each shuffled."""
        parts = {"test": (self.test,), "train": self.train}
        return {part: self._stream(corpus, splits, seed) for part, splits in parts.items()}

    def _stream(self, corpus: str, splits: tuple[str, ...], seed: int) -> Rows:
        hub = {"path": self.repository, "name": self.config, "revision": self.revision}
        places: dict[str, dict[str, Any]] = dict.fromkeys(splits, hub)
        if local := _local_folder(corpus):
            names = {split: (f"{split}/*.parquet", f"{split}-*.parquet") for split in splits}
            folder = local / self.config
            found = {s: sorted(str(f) for n in names[s] for f in folder.glob(n)) for s in splits}
            places = {s: {"path": "parquet", "data_files": {s: f}} for s, f in found.items() if f}
            if not places:
                raise AssetError(
                    f"{local}: no Parquet file of split {' or '.join(splits)}",
                    f"lay it out as the hub does: {self.config}/{splits[0]}/0000.parquet,"
                    f" or {self.config}/{splits[0]}-00000-of-00001.parquet",
                )
        for split, place in places.items():
            with models.explained(f"{corpus} ({self.repository})"):
                rows = datasets.load_dataset(split=split, streaming=True, **place)
                rows = rows.cast_column("audio", datasets.Audio(decode=False))
                for row in rows.shuffle(seed=seed, buffer_size=BUFFER):
                    # Neither has punctuation; LibriSpeech's capitals would be a foreign script.
                    yield {**row, "text": (row[self.text] or "").lower()}


def _local_folder(corpus: str) -> Path | None:
    if not (root := os.environ.get("KAPPA_CORPORA")):
        return None
    folder = paths.expanded(root) / corpus
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder",
            "put the corpus' Parquet files there, or unset KAPPA_CORPORA to stream from the hub",
        )
    return folder


HUB = {
    "librispeech": HubCorpus(
        repository="openslr/librispeech_asr",
        revision="71cacbfb7e2354c4226d01e70d77d5fca3d04ba1",
        config="all",
        train=("train.clean.100", "train.clean.360"),
        test="test.clean",
        text="text",
        language="en",
    ),
    "mls_german": HubCorpus(
        repository="facebook/multilingual_librispeech",
        revision="2e83e61823b4c47dcbcb1980bb88601274127609",
        config="german",
        train=("train",),
        test="test",
        text="transcript",
        language="de",
    ),
}
