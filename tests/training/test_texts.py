import re

import pytest
import tiny

from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import sha256
from kappa_lib.training import texts

ENOUGH = 4_000  # tokens of each kind, for an estimate to be worth something


@pytest.mark.parametrize("kind", texts.KINDS)
def test_a_text_has_its_pinned_bytes_enough_tokens_and_ends_with_a_sentence(kind):
    text = texts.read(kind)
    assert sha256(texts.FOLDER / f"{kind}.txt") == texts.about()[kind]["sha256"]
    assert len(tiny.tokenizer()(text)["input_ids"]) >= ENOUGH
    assert re.search(r"[.!?]\"?\n\Z", text)
    assert not re.search(r"\r|</|&\w+;", text)


def test_the_texts_and_their_manifest_are_all_there_is():
    assert set(texts.about()) == set(texts.KINDS)
    assert {p.name for p in texts.FOLDER.iterdir()} == {
        "texts.json",
        *(f"{kind}.txt" for kind in texts.KINDS),
    }
    for entry in texts.about().values():
        assert set(entry) == {"source", "licence", "credit", "sha256"}


def test_the_german_is_german_and_the_english_english():
    def share(kind, words):
        found = re.findall(r"\w+", texts.read(kind).lower())
        return sum(word in words for word in found) / len(found)

    german, english = {"der", "die", "das", "und", "ist"}, {"the", "and", "of", "to", "was"}
    assert share("german", german) > 0.08 > 0.005 > share("german", english)
    assert share("english", english) > 0.1 > 0.005 > share("english", german)


def test_a_changed_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "FOLDER", tmp_path)
    with pytest.raises(AssetError, match=r"english\.txt(.|\n)*no file"):
        texts.read("english")
    (tmp_path / "english.txt").write_text("No one who had ever seen Catherine Morland.\n")
    with pytest.raises(AssetError, match="not the pinned text"):
        texts.read("english")


def test_windows_are_the_beginning_of_each_text_and_do_not_overlap():
    tokenizer = tiny.tokenizer()
    windows = texts.windows(tokenizer, 300)
    assert list(windows) == list(texts.KINDS)
    for kind, found in windows.items():
        assert found.shape == (2, texts.WINDOW + 1)
        assert texts.read(kind).startswith(tokenizer.decode(found.flatten()[:-5]))


def test_a_study_s_4096_predictions_of_each_kind_are_there():
    for found in texts.windows(tiny.tokenizer(), 4096).values():
        assert found[:, 1:].numel() == 4096


def test_asking_for_more_text_than_there_is():
    with pytest.raises(InputError, match="text_tokens"):
        texts.windows(tiny.tokenizer(), 10**8)


def test_the_identity_says_how_much_text_is_used():
    tokenizer = tiny.tokenizer()
    few, more = texts.windows(tokenizer, 256), texts.windows(tokenizer, 257)
    assert texts.identity(few) == texts.identity(texts.windows(tokenizer, 1))
    assert texts.identity(few) != texts.identity(more)
