"""Where things are, derived from the package's own location and two environment variables."""

import os
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data"  # what the package itself brings: profiles, claims, transcripts
ROOT = PACKAGE.parent
# Only a clone has these; see :func:`in_clone`.
LOCK = ROOT / "requirements.lock"
NOTEBOOKS = ROOT / "notebooks"
REFERENCE = ROOT / "results" / "reference"  # what is committed of the published runs


def in_clone() -> bool:
    """Whether the package lies in a clone of the repository, not among installed packages."""
    return (ROOT / "pyproject.toml").is_file() and NOTEBOOKS.is_dir()


def expanded(path: str | Path) -> Path:
    """A path that a person wrote, ``~`` replaced; ``~nobody`` stays as it is."""
    return Path(os.path.expanduser(path))


def cache() -> Path:
    """Folder of downloads and everything derived from them alone (``KAPPA_HOME``)."""
    return expanded(os.environ.get("KAPPA_HOME") or user_cache_path("kappa_lib"))


def results(profile: str) -> Path:
    """Folder of one profile's results, ``results/<profile>``.

    ``results`` is what ``KAPPA_RESULTS`` says, else lies in the clone, else, of an installed
    package, in the current folder.
    """
    root = (ROOT if in_clone() else Path.cwd()) / "results"
    return expanded(os.environ.get("KAPPA_RESULTS") or root) / profile
