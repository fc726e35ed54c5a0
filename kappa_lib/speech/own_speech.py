"""A user's own recordings as the same typed rows: any folder that ``datasets`` can read."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import soxr

from kappa_lib import files, paths
from kappa_lib.errors import InputError
from kappa_lib.speech import audio
from kappa_lib.speech.corpora import sentence_key
from kappa_lib.weights.fetch import Progress, say

METADATA = "metadata.csv"


@dataclass
class Reader:
    """Turns source rows into rows with ``audio.FEATURES``, counting the refused."""

    language: str
    corpus: str
    text_column: str
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def rows(self, source: datasets.Dataset, indices: list[int], part: str) -> Iterator[dict]:
        """The usable rows among ``indices`` of a source, resampled to 16 kHz."""
        for index in indices:
            try:
                yield self._row(source[index], index, part)
            except InputError as error:
                self.skipped[part] += 1
                self.examples.append(error.what)

    def _row(self, item: dict[str, Any], index: int, part: str) -> dict[str, Any]:
        text = item[self.text_column] or ""
        named = {"id": f"{self.corpus}-{index:06d}", "audio": item["audio"], "text": text}
        samples, rate = audio.read(named)
        speech = np.clip(soxr.resample(samples, rate, audio.RATE), -1.0, 1.0)
        audio.check(named, speech)
        return named | {
            "audio": {"bytes": audio.encode(speech), "path": None},
            "language": self.language,
            "corpus": self.corpus,
            "split": part,
            "speaker": str(item.get("speaker", "")),
            "seconds": speech.size / audio.RATE,
        }


def from_folder(
    folder: Path,
    language: str,
    test: int,
    seed: int,
    text_column: str = "text",
    progress: Progress = say,
) -> datasets.DatasetDict:
    """Read a corpus of one's own and split it by sentence.

    The folder may hold what ``save_to_disk`` wrote, Parquet files, or sound files beside a
    ``metadata.csv`` (with ``file_name``), in the folder itself or one for each part; the first two
    need an ``audio`` column, and all one with the transcript. Any sampling rate
    and number of channels is taken. Rows that are corrupt, silent or without words are left out
    and counted. A part called ``test`` is kept as it is; otherwise ``test`` sentences are drawn.

    Args:
        folder: the corpus.
        language: ``en``, ``de``, …, the same for all rows.
        test: number of sentences to test on, where the corpus has no ``test`` part.
        seed: of that draw.
        text_column: name of the transcript's column.
        progress: told what is read and what is left out.

    Raises:
        InputError: not a folder, a column is missing, or no row is usable.
    """
    source, test_rows = _load(folder, text_column)
    keys = [sentence_key(text or "") for text in source[text_column]]
    if test_rows is None:
        test_rows = _draw(keys, test, seed)
    tested = {keys[index] for index in test_rows}
    train_rows = [index for index, key in enumerate(keys) if key not in tested]
    reader = Reader(language, folder.name, text_column)
    target = paths.cache() / "speech" / f"own-{_fingerprint(folder, test_rows, reader)}"
    if not target.is_dir():
        _convert(source, {"train": train_rows, "test": test_rows}, reader, target, progress)
    return audio.load_parts(target)


def _load(folder: Path, text_column: str) -> tuple[datasets.Dataset, list[int] | None]:
    """All rows in one dataset, and the positions of those in a part called ``test``."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", "give the folder of the corpus")
    try:
        parts = _parts(folder)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{folder}: not readable as a dataset: {str(error).splitlines()[0]}",
            "it needs Parquet files, a save_to_disk folder, or sound files and a metadata.csv",
        ) from error
    for name, part in parts.items():
        missing = {"audio", text_column} - set(part.column_names)
        if missing:
            raise InputError(
                f"{folder}: part {name} has no column {', '.join(sorted(missing))}",
                f"it has {', '.join(part.column_names)}; text_column names the transcript",
            )
    undecoded = datasets.Audio(decode=False)
    together = [part.cast_column("audio", undecoded) for part in parts.values()]
    offsets = np.cumsum([0, *(len(part) for part in together)])
    where = {name: range(*offsets[i : i + 2]) for i, name in enumerate(parts)}
    both = "test" in parts and len(parts) > 1
    return datasets.concatenate_datasets(together), list(where["test"]) if both else None


def _parts(folder: Path) -> dict[str, datasets.Dataset]:
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    if (folder / "dataset_info.json").is_file():
        return {"train": datasets.load_from_disk(str(folder))}
    if any(folder.rglob("*.parquet")):
        return _parquet(folder)
    tables = [folder / METADATA, *sorted(folder.glob(f"*/{METADATA}"))]
    parts = {table.parent.name: _sound_files(table) for table in tables if table.is_file()}
    if not parts:
        raise ValueError(f"no Parquet file and no {METADATA} in it")
    return parts


def _parquet(folder: Path) -> dict[str, datasets.Dataset]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # they would write to stderr
    try:
        cache = str(paths.cache() / "datasets")
        return datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=cache)
    finally:
        if shown:
            datasets.enable_progress_bars()


def _sound_files(table: Path) -> datasets.Dataset:
    """The rows of a ``metadata.csv``; its ``file_name`` is relative to the table's folder.

    ``datasets`` reads such folders too, but only with torchcodec and FFmpeg installed.
    """
    with open(table, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or "file_name" not in rows[0]:
        raise ValueError(f"{table} has no rows with a file_name")
    features = datasets.Features({name: datasets.Value("string") for name in rows[0]})
    features["audio"] = datasets.Audio(decode=False)
    for row in rows:
        row["audio"] = {"bytes": None, "path": str(table.parent / row["file_name"])}
    return datasets.Dataset(pa.Table.from_pylist(rows, schema=features.arrow_schema))


def _draw(keys: list[str], count: int, seed: int) -> list[int]:
    """Positions of ``count`` different sentences, one recording of each."""
    first = {key: index for index, key in reversed(list(enumerate(keys))) if key}
    if count >= len(first):
        raise InputError(
            f"{count} test sentences asked for, the corpus has {len(first)} different ones",
            "ask for fewer: some must be left to train on",
        )
    candidates = sorted(first.values())
    return sorted(np.random.default_rng(seed).permutation(candidates)[:count].tolist())


def _fingerprint(folder: Path, test_rows: list[int], reader: Reader) -> str:
    listing = [
        [str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return files.fingerprint([listing, test_rows, reader.language, reader.text_column])[:32]


def _convert(
    source: datasets.Dataset,
    rows: dict[str, list[int]],
    reader: Reader,
    target: Path,
    progress: Progress,
) -> None:
    progress(f"speech {reader.corpus}: reading {len(source)} rows")
    with files.replacing(target) as temporary:
        temporary.mkdir()
        for part, indices in rows.items():
            audio.write_part(temporary, part, reader.rows(source, indices, part))
            if reader.skipped[part] == len(indices):
                raise InputError(
                    f"{reader.corpus}: none of the {len(indices)} {part} rows is usable"
                    + "".join(f"\n  {example}" for example in reader.examples[:3]),
                    "check the recordings and the transcripts",
                )
    for example in reader.examples[:10]:
        progress(f"speech {reader.corpus}: left out: {example}")
    progress(f"speech {reader.corpus}: {sum(reader.skipped.values())} rows left out")
