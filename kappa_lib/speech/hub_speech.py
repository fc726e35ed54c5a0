"""The paper's two corpora: LibriSpeech and Multilingual LibriSpeech German, streamed.

Rows come through ``datasets`` from pinned revisions of the hub's copies, or from local folders of
Parquet files in the same layout (``KAPPA_CORPORA``).
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets

from kappa_lib.errors import AssetError, InputError
from kappa_lib.speech.recorded import listing
from kappa_lib.weights import models

BUFFER = 1_000  # rows that are shuffled among each other while streaming


@dataclass(frozen=True)
class HubCorpus:
    """A corpus on the hub, a :class:`kappa_lib.speech.recorded.Source`.

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

    # Neither corpus has punctuation; LibriSpeech's capitals alone would be a foreign script.
    lower_case = True

    def place(self, corpus: str) -> str:
        """The local folder, or the hub's id and revision."""
        return str(local_folder(corpus) or f"{self.repository}@{self.revision[:7]}")

    def origin(self, corpus: str) -> Any:
        """What is pinned, and the local files where there are such."""
        local, pinned = local_folder(corpus), asdict(self)
        return [pinned, listing(local, "*.parquet")] if local else pinned

    def items(
        self, corpus: str, counts: dict[str, int], seed: int
    ) -> dict[str, Iterator[dict[str, Any]]]:
        """The undecoded rows of a part, split after split, each shuffled."""
        splits = {"test": (self.test,), "train": self.train}
        return {part: self._stream(corpus, names, seed) for part, names in splits.items()}

    def _stream(self, corpus: str, splits: tuple[str, ...], seed: int) -> Iterator[dict[str, Any]]:
        for split, listed in _available(corpus, self.config, splits).items():
            with models.explained(f"{corpus} ({self.repository})"):
                place: dict[str, Any] = {"revision": self.revision, "name": self.config}
                if listed:
                    place = {"data_files": {split: listed}}
                rows = datasets.load_dataset(
                    "parquet" if listed else self.repository, split=split, streaming=True, **place
                )
                rows = rows.cast_column("audio", datasets.Audio(decode=False))
                yield from rows.shuffle(seed=seed, buffer_size=BUFFER)


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


def _available(corpus: str, config: str, splits: tuple[str, ...]) -> dict[str, list[str]]:
    """Splits to read: all of the hub's, or those a local folder has, with their files."""
    local = local_folder(corpus)
    if local is None:
        return {split: [] for split in splits}
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
