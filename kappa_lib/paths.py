"""Where things are, derived from the package's own location and two environment variables."""

import os
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def cache() -> Path:
    """Folder of downloads and everything derived from them alone (``KAPPA_HOME``)."""
    return Path(os.environ.get("KAPPA_HOME") or user_cache_path("kappa_lib")).expanduser()


def results(profile: str) -> Path:
    """Folder of one profile's results, ``results/<profile>`` (root: ``KAPPA_RESULTS``)."""
    root = Path(os.environ.get("KAPPA_RESULTS") or ROOT / "results").expanduser()
    return root / profile
