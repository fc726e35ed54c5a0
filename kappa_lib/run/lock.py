"""The pinned environment: reads ``requirements.lock`` and writes ``environment.yml`` from it.

``python -m kappa_lib.run.lock`` rewrites ``environment.yml`` after the lock has changed.
"""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from kappa_lib import files, paths
from kappa_lib.errors import InputError

LOCK = paths.ROOT / "requirements.lock"
PYPROJECT = paths.ROOT / "pyproject.toml"
ENVIRONMENT = paths.ROOT / "environment.yml"
# The oldest Python that the project supports; every pin has a build for it.
CONDA_PYTHON = "3.11"

_HEADER = """\
# The conda route to the pins of requirements.lock; written by `python -m kappa_lib.run.lock`.
#   conda env create -f environment.yml && conda activate kappa
# The pins are repeated here because conda, mamba and micromamba disagree on where a relative
# `-r` path starts.
"""


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


def requires_python(path: Path = PYPROJECT) -> SpecifierSet:
    """The Python versions that ``pyproject.toml`` allows."""
    return SpecifierSet(
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]["requires-python"]
    )


def dependencies(path: Path = PYPROJECT) -> list[Requirement]:
    """The direct dependencies that ``pyproject.toml`` declares."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


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


def environment_yml(path: Path = LOCK) -> str:
    """Text of the conda environment with the same pins."""
    head = ["name: kappa", "channels:", "  - conda-forge", "dependencies:"]
    base = [f"  - python={CONDA_PYTHON}", "  - pip", "  - pip:"]
    lines = [f"      - {canonicalize_name(pin.name)}{_tail(pin)}" for pin in pins(path)]
    return _HEADER + "\n".join([*head, *base, *lines, "      - -e ."]) + "\n"


def _tail(pin: Requirement) -> str:
    return f"{pin.specifier} ; {pin.marker}" if pin.marker else str(pin.specifier)


if __name__ == "__main__":
    files.write_text(ENVIRONMENT, environment_yml())
