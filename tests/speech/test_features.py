import pytest
import torch

from kappa_lib import profiles
from kappa_lib.errors import AssetError
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
    def refused(*_, **__):
        raise AssetError("asterisk: no mirror answered", "connect")

    monkeypatch.setattr(assets, "asterisk_asset", refused)
    data = features.load(profile)
    assert [t.corpus for t in data.tests] == ["de"]
    assert "no mirror answered" in data.missing["en_human"]
    assert "WITHOUT en_human" in capsys.readouterr().err
    assert "no mirror answered" in (profile.folder / "split.json").read_text()
