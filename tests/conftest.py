"""What holds for every test: no screen, no leftovers of a run's settings, repeatable examples."""

import os

import pytest
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"

# The same examples every time, and no time limit for one: the machine may be busy.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _outside_a_run(monkeypatch):
    """A test started from within a run or a JupyterLab terminal sees neither."""
    for name in ("KAPPA_PROGRESS", "KAPPA_INSTALL_SECONDS", "KAPPA_RESULTS", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
