"""Atomic writes, hashes, and the rule by which a stage of the pipeline is skipped."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kappa_lib.errors import SpaceError


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value with sorted keys, as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Refuse before writing when the disk that holds ``folder`` has fewer than ``needed`` bytes.

    Raises:
        SpaceError: naming the folder, the bytes needed and the bytes free.
    """
    existing = next(p for p in [folder, *folder.parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SpaceError(
            f"{folder}: {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free",
            "free some space, or point KAPPA_HOME / KAPPA_RESULTS at a larger disk",
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` only if nothing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: numpy, pandas and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Stage:
    """One cacheable step: done when its record holds the same inputs and its outputs are intact.

    Args:
        name: stage name, also the record's file name.
        folder: the results folder; the record is ``<folder>/stages/<name>.json``.
        inputs: JSON-serialisable description of everything that decides the outputs.
        outputs: files the stage leaves behind.
    """

    name: str
    folder: Path
    inputs: dict[str, Any]
    outputs: list[Path] = field(default_factory=list)

    @property
    def record(self) -> Path:
        return self.folder / "stages" / f"{self.name}.json"

    @property
    def key(self) -> str:
        """Fingerprint of the inputs."""
        return fingerprint(self.inputs)

    def done(self) -> bool:
        """Whether the record matches the inputs and every output still has the recorded hash."""
        if not self.record.is_file():
            return False
        record = read_json(self.record)
        if record.get("key") != self.key:
            return False
        hashes = record["outputs"]
        return all(p.is_file() and hashes.get(p.name) == sha256(p) for p in self.outputs)

    def finish(self) -> None:
        """Record the inputs and the hashes of the outputs."""
        outputs = {p.name: sha256(p) for p in self.outputs}
        write_json(self.record, {"key": self.key, "inputs": self.inputs, "outputs": outputs})
