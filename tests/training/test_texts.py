import re
import shutil

import pytest
import tiny

from kappa_lib import text
from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import sha256
from kappa_lib.text import bundled_text, text_metadata
from kappa_lib.training import evaluation

ENOUGH = 4_000  # tokens of each kind, for an estimate to be worth something


@pytest.mark.parametrize("kind", evaluation.KINDS)
def test_a_text_has_its_pinned_bytes_enough_tokens_and_ends_with_a_sentence(kind):
    found = bundled_text(kind)
    assert sha256(text.TEXTS / f"{kind}.txt") == text_metadata()[kind]["sha256"]
    assert len(tiny.tokenizer()(found)["input_ids"]) >= ENOUGH
    assert re.search(r"[.!?]\"?\n\Z", found)
    assert not re.search(r"\r|</|&\w+;", found)


def test_the_texts_and_their_manifest_are_all_there_is():
    spoken = {"de_open", "en_open"}  # the sentences of those corpora
    assert set(text_metadata()) == set(evaluation.KINDS) | spoken
    assert {p.name for p in text.TEXTS.iterdir()} == {
        "texts.json",
        *(f"{name}.txt" for name in text_metadata()),
    }
    for entry in text_metadata().values():
        assert set(entry) == {"source", "licence", "credit", "sha256"}


def test_a_changed_text_is_refused(tmp_path, monkeypatch):
    shutil.copy(text.TEXTS / "texts.json", tmp_path)
    monkeypatch.setattr(text, "TEXTS", tmp_path)
    with pytest.raises(AssetError, match=r"english\.txt(.|\n)*not the pinned text"):
        bundled_text("english")
    (tmp_path / "english.txt").write_text("No one who had ever seen Catherine Morland.\n")
    with pytest.raises(AssetError, match="not the pinned text"):
        bundled_text("english")


def test_windows_are_the_beginning_of_each_text_and_do_not_overlap():
    tokenizer = tiny.tokenizer()
    windows = evaluation.text_windows(tokenizer, 300)
    assert list(windows) == list(evaluation.KINDS)
    for kind, found in windows.items():
        assert found.shape == (2, evaluation.WINDOW + 1)
        assert bundled_text(kind).startswith(tokenizer.decode(found.flatten()[:-5]))
    for found in evaluation.text_windows(tokenizer, 4096).values():
        assert found[:, 1:].numel() == 4096, "as many as a study asks for"
    with pytest.raises(InputError, match="text_tokens"):
        evaluation.text_windows(tokenizer, 10**8)


def test_the_identity_says_how_much_text_is_used():
    windows = [evaluation.text_windows(tiny.tokenizer(), n) for n in (1, 256, 257)]
    few, same, more = map(evaluation.texts_identity, windows)
    assert few == same != more
