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
        return [pinned, states(local.rglob("*.parquet"))] if local else pinned

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
