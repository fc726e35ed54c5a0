"""Write ``environment.yml`` from ``requirements.lock``: ``python -m tools.environment``."""

from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kappa_lib import files, paths
from kappa_lib.errors import InputError

ENVIRONMENT = paths.ROOT / "environment.yml"
# The oldest Python that the project supports; every pin has a build for it.
CONDA_PYTHON = "3.11"

_HEADER = """\
# The conda route to the pins of requirements.lock; written by `python -m tools.environment`.
#   conda env create -f environment.yml && conda activate kappa
# The pins are repeated here because conda, mamba and micromamba disagree on where a relative
# `-r` path starts.
"""


def pins(path: Path = paths.LOCK) -> list[Requirement]:
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


def environment_yml() -> str:
    """Text of the conda environment with the same pins."""
    head = ["name: kappa", "channels:", "  - conda-forge", "dependencies:"]
    base = [f"  - python={CONDA_PYTHON}", "  - pip", "  - pip:"]
    lines = []
    for pin in pins():
        where = f" ; {pin.marker}" if pin.marker else ""
        lines.append(f"      - {canonicalize_name(pin.name)}{pin.specifier}{where}")
    return _HEADER + "\n".join([*head, *base, *lines, "      - -e ."]) + "\n"


if __name__ == "__main__":
    files.write_text(ENVIRONMENT, environment_yml())
