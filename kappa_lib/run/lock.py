"""The pinned environment: ``requirements.lock``, and what is installed otherwise."""

from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from kappa_lib import paths
from kappa_lib.errors import InputError

LOCK = paths.ROOT / "requirements.lock"


def pins(path: Path = LOCK) -> list[Requirement]:
    """The lock's lines, in its order.

    Raises:
        InputError: a line that is not an exact pin, naming it.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for pin in found:
        specifiers = list(pin.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==":
            raise InputError(f"{path.name}: {pin} is not an exact pin", "write name==version")
    return found


def pins_here(path: Path = LOCK) -> list[Requirement]:
    """The lock's lines that apply to this platform and Python."""
    return [pin for pin in pins(path) if pin.marker is None or pin.marker.evaluate()]


def drift(path: Path = LOCK) -> list[str]:
    """What is installed otherwise than pinned, a sentence a package; empty when all agree.

    A build label (``2.13.0+cpu``) satisfies the pin of its version.
    """
    sentences = []
    for pin in pins_here(path):
        try:
            version = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            sentences.append(f"{pin.name} is missing, pinned {pin.specifier}")
            continue
        if not pin.specifier.contains(version, prereleases=True):
            sentences.append(f"{pin.name} is {version}, pinned {pin.specifier}")
    return sentences
