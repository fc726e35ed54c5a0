"""The committed comparison of ``en_actors`` with Whisper base."""

import pytest

from kappa_lib import paths
from kappa_lib.errors import AssetError
from kappa_lib.files import read_json
from kappa_lib.speech import corpora
from tools.check_actors import agreement

COMMITTED = read_json(paths.REFERENCE / "en_actors.json")


def test_the_committed_rates_are_those_of_the_committed_transcripts():
    found = agreement(COMMITTED["rows"])
    assert {name: COMMITTED[name] for name in found} == found
    assert found["same_line"] > 0.8 * found["clips"]
    assert found["word_error_rate_of_same_lines"] < 0.1


def test_the_committed_transcripts_are_those_of_the_corpus():
    try:
        texts = {row.file: row.text for row in corpora.prompts("en_actors")}
    except AssetError as error:
        pytest.skip(f"the game's file cannot be had here: {error.what}")
    assert len(texts) == COMMITTED["of"]
    for row in COMMITTED["rows"]:
        assert texts[row["clip"]] == row["transcript"]
