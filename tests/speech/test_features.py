import hub_files
import pytest
import torch

from kappa_lib import profiles
from kappa_lib.errors import InputError, UnreachableError
from kappa_lib.speech import features
from kappa_lib.weights import assets

COUNTS = {"train_utterances": {"de": 2, "en": 1}, "test_utterances": {"de": 1, "en_human": 2}}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    return profiles.load("smoke", **COUNTS)


def test_every_corpus_is_encoded_and_the_split_written(profile):
    data = features.load(profile)
    assert len(data.texts) == len(data.features) == 3
    assert {t.corpus: len(t.ids) for t in data.tests} == {"de": 1, "en_human": 2}
    assert all(f.dtype == torch.float16 and f.shape[1] == 512 for f in data.features)
    assert data.key in (profile.folder / "split.json").read_text()
    again = features.load(profile)
    assert again.key == data.key
    assert all(torch.equal(a, b) for a, b in zip(data.features, again.features, strict=True))


def test_recordings_that_cannot_be_had_are_left_out_and_named(profile, monkeypatch, capsys):
    known = assets.asset

    def refused(name):
        if name.startswith("asterisk"):
            raise UnreachableError("asterisk: no mirror answered", "connect")
        return known(name)

    monkeypatch.setattr(assets, "asset", refused)
    data = features.load(profile)
    assert [t.corpus for t in data.tests] == ["de"]
    assert "no mirror answered" in data.missing["en_human"]
    assert "WITHOUT en_human" in capsys.readouterr().err
    assert "no mirror answered" in (profile.folder / "split.json").read_text()


def test_test_rows_without_words_are_counted_and_an_empty_part_is_refused(
    profile, tmp_path, monkeypatch
):
    """Whisper's English normaliser drops hesitations: nothing would be left to compare."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "assets").symlink_to(assets.WHISPER_BASE.get().parent)
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    hub_files.sound_folder(folder / "train", ["one two", "three"])
    hub_files.sound_folder(folder / "test", ["uh", "mm, um", "four"], seed=1)
    own = {"mine": {"folder": str(folder), "language": "en", "text": "text"}}

    def load(train, test):
        counts = {"train_utterances": {"mine": train}, "test_utterances": {"mine": test}}
        return features.load(profile.model_copy(update=dict(corpora=own, **counts)))

    data = load(2, 3)
    assert data.left_out["mine"]["test"] == {"nothing left by the normaliser": 2}
    assert data.used == {"mine": {"train": 2, "test": 1}}
    with pytest.raises(InputError, match="nothing to train on"):
        load(0, 1)
    (folder / "test" / "metadata.csv").write_text("file_name,text\n0.wav,uh\n1.wav,um")
    with pytest.raises(InputError, match=r"no usable row for test.*nothing left"):
        load(2, 2)
