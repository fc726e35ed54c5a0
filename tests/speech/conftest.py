"""What several tests of speech watch."""

import pytest

from kappa_lib.speech import recorded


@pytest.fixture
def said(monkeypatch):
    """What is reported while a corpus is built."""
    lines = []
    monkeypatch.setattr(recorded, "say", lines.append)
    return lines
