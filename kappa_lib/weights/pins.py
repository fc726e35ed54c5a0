"""Files held to a size and a SHA-256, and the record that says a folder was checked."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kappa_lib import files
from kappa_lib.errors import AssetError

RECORD = "origin.json"


@dataclass(frozen=True)
class Pin:
    """One file that must have exactly these bytes.

    Args:
        name: path relative to the asset's folder, with forward slashes.
        size: bytes.
        sha256: hex digest of the content.
    """

    name: str
    size: int
    sha256: str


def check(folder: Path, pins: Iterable[Pin]) -> None:
    """Hash every pinned file of a folder.

    Raises:
        AssetError: a file is missing or is not the pinned one; names file, expected and found.
    """
    for pin in pins:
        path = folder / pin.name
        if not path.is_file():
            raise AssetError(f"{path}: missing", f"delete {folder} and run again to fetch it")
        found = files.sha256(path)
        if found != pin.sha256:
            raise AssetError(
                f"{path}: not the pinned file\n"
                f"  expected sha256 {pin.sha256} ({pin.size} bytes)\n"
                f"  found    sha256 {found} ({path.stat().st_size} bytes)",
                f"delete {folder} and run again to fetch it anew",
            )


def write_record(folder: Path, pins: Iterable[Pin], origin: str) -> None:
    """Write ``origin.json``: where the bytes came from and the state in which they were hashed."""
    entries = {
        pin.name: {"sha256": pin.sha256, "size": pin.size, "mtime_ns": _mtime(folder / pin.name)}
        for pin in pins
    }
    files.write_json(folder / RECORD, {"origin": origin, "files": entries})


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, or None where there is none."""
    path = folder / RECORD
    return files.read_json(path) if path.is_file() else None


def unchanged(folder: Path, pins: Iterable[Pin]) -> bool:
    """Whether every file still has the size and time stamp it had when it was last hashed."""
    record = read_record(folder)
    if record is None:
        return False
    entries = record["files"]
    return all(_as_recorded(folder, pin, entries.get(pin.name)) for pin in pins)


def _as_recorded(folder: Path, pin: Pin, entry: dict[str, Any] | None) -> bool:
    path = folder / pin.name
    if entry is None or entry["sha256"] != pin.sha256 or not path.is_file():
        return False
    status = os.stat(path)
    return status.st_size == pin.size and status.st_mtime_ns == entry["mtime_ns"]


def _mtime(path: Path) -> int:
    return os.stat(path).st_mtime_ns
