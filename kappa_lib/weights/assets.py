"""The weights, the speech synthesisers and the recordings this project works on, by name.

Each is a folder of files pinned by size and SHA-256 (in ``data/assets/*.json``), brought into the
cache once, from the first source that delivers the pinned bytes: the model hub at a pinned revision
where it has them, else the others. A folder takes its name when every file has been hashed.
``KAPPA_ASSETS=hub`` or ``index`` asks only that one for what both hold; ``KAPPA_OFFLINE=1`` forbids
every fetch; what is in the cache still works.
"""

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, InputError, UnreachableError
from kappa_lib.progress import say
from kappa_lib.weights.mirrors import Source

_CHOICES = ("hub", "index")


@dataclass(frozen=True)
class Pin:
    """One file that must have exactly these bytes; ``name`` is relative, with forward slashes."""

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


@dataclass(frozen=True)
class Asset:
    """A folder of pinned files.

    Args:
        name: folder name in the cache, without a dot.
        pins: the files, first of all the one that gives the asset its name.
        sources: where to fetch from; the first that works wins.
        stored_as: of weights that are dequantised before use, for instance ``Q4_1``.
    """

    name: str
    pins: tuple[Pin, ...]
    sources: tuple[Source, ...]
    stored_as: str = ""

    @property
    def folder(self) -> Path:
        """Where the verified files live."""
        return paths.cache() / "assets" / self.name

    @property
    def key(self) -> str:
        """Fingerprint of every file's name and hash."""
        return files.fingerprint([[pin.name, pin.sha256] for pin in self.pins])

    def get(self) -> Path:
        """The folder with every file present, fetched and hashed where it is not there yet.

        What is there is hashed again where a file lacks its size.

        Raises:
            AssetError: a cached file is not the pinned one.
            UnreachableError: no source delivers the files.
            SpaceError: the disk is too full.
        """
        if not self.folder.is_dir():
            self._fetch()
        sizes = [(self.folder / pin.name, pin.size) for pin in self.pins]
        if any(not path.is_file() or path.stat().st_size != size for path, size in sizes):
            check(self.folder, self.pins)
        return self.folder

    def _fetch(self) -> None:
        if os.environ.get("KAPPA_OFFLINE") == "1":
            raise UnreachableError(
                f"{self.name}: not in {self.folder.parent}, and KAPPA_OFFLINE=1 forbids a fetch",
                "unset KAPPA_OFFLINE, or copy the folder from a machine that has it",
            )
        size = sum(pin.size for pin in self.pins)
        files.drop_abandoned(self.folder)
        # Archive, unpacked files and the package manager's own copy exist at the same time.
        files.require_space(self.folder, 3 * size)
        failures = []
        for source in self._allowed():
            say(f"{self.name}: fetching {size / 1e6:.0f} MB from the {source.label}")
            try:
                with files.making(self.folder) as temporary:
                    source.fetch(temporary, [pin.name for pin in self.pins])
                    check(temporary, self.pins)
            except (AssetError, OSError) as error:
                failures.append(f"{source.label}: {getattr(error, 'what', error)}")
                say(f"{self.name}: failed: {failures[-1]}")
            else:
                say(f"{self.name}: every file has its pinned hash, kept in {self.folder}")
                return
        raise UnreachableError(
            f"{self.name}: no source delivered it\n  " + "\n  ".join(failures),
            "check the network and the package index that pip is set up with, then run again; "
            "nothing was kept of the failed attempts",
        )

    def _allowed(self) -> list[Source]:
        wanted = os.environ.get("KAPPA_ASSETS", "")
        if wanted not in ("", *_CHOICES):
            choices = " or ".join(_CHOICES)
            raise InputError(f"KAPPA_ASSETS is {wanted!r}", f"set it to {choices}, or unset it")
        kept = [source for source in self.sources if source.kind == wanted]
        return kept or list(self.sources)


def manifest(name: str) -> dict[str, Any]:
    """All that ``data/assets`` says of an asset, licence and credit among it."""
    return files.read_json(paths.DATA / "assets" / f"{name}.json")


def asset(name: str) -> Asset:
    """The asset of that name; where there is a file for each platform, with the one for this.

    Raises:
        UnreachableError: the pinned release has no library for this platform.
    """
    known = manifest(name)
    entries = known["files"]
    if libraries := known.get("libraries"):
        here = f"{sys.platform}-{platform.machine().lower()}"
        if here not in libraries:
            raise UnreachableError(
                f"{name}: no library is pinned for {here}, only for {', '.join(libraries)}",
                "build the synthetic corpora on one of those and copy the cache folder",
            )
        entries = {libraries[here]["file"]: libraries[here], **entries}
    pins = tuple(Pin(file, entry["size"], entry["sha256"]) for file, entry in entries.items())
    sources = tuple(Source(**source) for source in known["sources"])
    return Asset(name, pins, sources, known.get("stored_as", ""))


WHISPER_BASE = asset("whisper-base-ctranslate2")  # multilingual, fp16


def synthesiser(engine: str) -> tuple[Path, Path]:
    """The library of ``espeak`` (eSpeak NG 1.52) or ``pico`` (SVOX Pico), and the folder that
    holds it and its data."""
    found = asset({"espeak": "espeak-ng", "pico": "svox-pico"}[engine])
    folder = found.get()
    return folder / found.pins[0].name, folder
