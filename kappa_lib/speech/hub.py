"""The paper's two corpora, streamed from the hub or read from Parquet files in its layout."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets

from kappa_lib import paths
from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import states
from kappa_lib.speech.recorded import Rows
from kappa_lib.weights import models

BUFFER = 1_000  # rows that are shuffled among each other while streaming


@dataclass(frozen=True)
class HubCorpus:
    """A corpus of the hub, or in ``$KAPPA_CORPORA/<corpus>`` where that is set.

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
        return [pinned, states(local.rglob("*.parquet"))] if local else pinned

    def items(self, corpus: str, counts: dict[str, int], seed: int) -> dict[str, Rows]:
        """A part's splits one after the other, each shuffled."""
        return {
            "test": self._stream(corpus, (self.test,), seed),
            "train": self._stream(corpus, self.train, seed),
        }

    def _stream(self, corpus: str, splits: tuple[str, ...], seed: int) -> Rows:
        place = {"path": self.repository, "name": self.config, "revision": self.revision}
        local = _local_folder(corpus)
        files = {split: self._files(local, split) for split in splits} if local else {}
        if local and not any(files.values()):
            raise AssetError(
                f"{local}: no Parquet file of split {' or '.join(splits)}",
                f"lay it out as the hub does: {self.config}/{splits[0]}/0000.parquet,"
                f" or {self.config}/{splits[0]}-00000-of-00001.parquet",
            )
        for split in splits:
            if local and not files[split]:
                continue
            given = {"path": "parquet", "data_files": {split: files[split]}} if local else place
            with models.explained(f"{corpus} ({self.repository})"):
                rows = datasets.load_dataset(split=split, streaming=True, **given)
                rows = rows.cast_column("audio", datasets.Audio(decode=False))
                yield from rows.shuffle(seed=seed, buffer_size=BUFFER)

    def _files(self, local: Path, split: str) -> list[str]:
        patterns = (f"{self.config}/{split}/*.parquet", f"{self.config}/{split}-*.parquet")
        return sorted(str(path) for pattern in patterns for path in local.glob(pattern))


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


SOURCES = {
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
