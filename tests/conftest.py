"""What holds for every test: no screen, no leftovers of a run's settings, repeatable examples."""

import os

import pytest
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"

# The same examples every time, and no time limit for one: the machine may be busy.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, one test ahead of all: at the end a long one runs alone.

    Whole files, since their tests share what is slow to set up.
    """
    marks = [(item, item.get_closest_marker("slow")) for item in items]
    heavy = {item.path for item, mark in marks if mark}
    ahead = {item for item, mark in marks if mark and mark.kwargs.get("ahead")}
    items.sort(key=lambda item: (item not in ahead, item.path not in heavy))


@pytest.fixture(autouse=True)
def _outside_a_run(monkeypatch):
    """A test started from within a run or a JupyterLab terminal sees neither."""
    for name in ("KAPPA_PROGRESS", "KAPPA_INSTALL_SECONDS", "KAPPA_RESULTS", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
