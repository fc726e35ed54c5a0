"""The Whisper encoder: its input, what it refuses, its two back ends held against each other."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_paper
import torch
from transformers import WhisperFeatureExtractor

from kappa_lib.errors import AssetError, CheckpointError
from kappa_lib.speech import audio, corpora, encoder, recorded
from kappa_lib.weights import assets, models

# Two implementations of the same fp32 arithmetic, in other orders of summation; measured on real
# weights: 3e-6 on average and 3e-5 at most, where features have a root mean square of 1.4.
MEAN_DIFFERENCE, LARGEST_DIFFERENCE = 2e-5, 5e-4
FULL = int(encoder.MAX_SECONDS * encoder.RATE)


@cache
def spoken(corpus: str) -> np.ndarray:
    """Two seconds of a test sentence."""
    row = recorded.build(corpus, corpora.SOURCES[corpus], 2, 2, 0)[0]["test"][0]
    return audio.decode(row)[: 2 * encoder.RATE]


@pytest.mark.parametrize("bands", [80, 128])
def test_a_full_window_has_whispers_own_features(bands):
    noise = np.random.default_rng(0).normal(0, 0.1, FULL).astype(np.float32)
    own = WhisperFeatureExtractor(feature_size=bands)
    expected = own(noise, sampling_rate=encoder.RATE, return_tensors="np")["input_features"][0]
    found = encoder.log_mel(noise, bands)
    assert found.shape == (bands, 3000)
    np.testing.assert_array_equal(found, expected)


def test_a_short_utterance_has_the_first_frames_of_a_full_window():
    sound = spoken("en")
    own = WhisperFeatureExtractor(feature_size=80)
    expected = own(sound, sampling_rate=encoder.RATE, return_tensors="np")["input_features"][0]
    found = encoder.log_mel(sound)
    frames = found.shape[1]
    assert frames % encoder.FRAME_MULTIPLE == 0
    assert 0 <= frames - sound.size / encoder.HOP < encoder.FRAME_MULTIPLE
    # The last windows reach beyond the end of the shorter of the two.
    np.testing.assert_allclose(found[:, :-2], expected[:, : frames - 2], atol=1e-5)


def test_both_back_ends_agree_on_weights_that_ctranslate2_converted(tmp_path):
    from ctranslate2.converters.transformers import WhisperLoader

    whisper = tiny_paper.whisper(bands=80)
    whisper.save_pretrained(tmp_path / "hf")
    spec = WhisperLoader().get_model_spec(whisper)
    spec.register_vocabulary([f"token{i}" for i in range(64)])
    spec.validate()
    (tmp_path / "ct2").mkdir()
    spec.save(str(tmp_path / "ct2"))
    first, second = (encoder.load(str(tmp_path / name)) for name in ("ct2", "hf"))
    assert isinstance(first, encoder.CTranslate2Encoder)
    assert isinstance(second, encoder.TransformersEncoder)
    difference = np.abs(first(spoken("en")) - second(spoken("en")))
    assert difference.mean() < MEAN_DIFFERENCE
    assert difference.max() < LARGEST_DIFFERENCE


def test_a_full_window_equals_the_modules_own_forward(tmp_path):
    whole = tiny_paper.whisper(bands=128)
    whole.save_pretrained(tmp_path)
    noise = np.random.default_rng(1).normal(0, 0.1, FULL).astype(np.float32)
    mel = torch.from_numpy(encoder.log_mel(noise, 128))[None]
    with torch.inference_mode():
        expected = whole.model.encoder(mel).last_hidden_state[0].numpy()
    found = encoder.TransformersEncoder(tmp_path)(noise)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_the_encoder_is_loaded_and_nothing_is_said(tmp_path, capfd):
    tiny_paper.whisper(bands=80).save_pretrained(tmp_path)
    capfd.readouterr()
    loaded = encoder.load(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    own = tiny_paper.whisper(bands=80).model.encoder.state_dict()
    found = loaded._encoder.state_dict()
    assert found.keys() == own.keys()
    for name, value in found.items():
        assert torch.equal(value, own[name]), name


def test_other_weights_and_absent_folders_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whisper = tiny_paper.whisper(bands=80)
    whisper.model.encoder.layers = whisper.model.encoder.layers[:1]
    whisper.save_pretrained(tmp_path / "half")
    with pytest.raises(AssetError, match=r"half: 15 tensors .* missing"):
        encoder.load(str(tmp_path / "half"))
    with pytest.raises(AssetError, match="absent"):
        encoder.load(str(tmp_path / "absent"))


def test_the_cache_is_kept_in_files_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    monkeypatch.setattr(encoder, "SHARD", 3)
    tiny_paper.whisper(bands=80).save_pretrained(tmp_path / "whisper")
    generator = np.random.default_rng(0)
    sounds = [generator.normal(0, 0.1, n).astype(np.float32) for n in range(2000, 9000, 1000)]
    done = []

    def make():
        return encoder.load(str(tmp_path / "whisper"))

    def decode(sound):
        done.append(len(sound))
        return sound

    def fails_at_five(sound):
        if sound is sounds[5]:
            raise KeyboardInterrupt
        return decode(sound)

    with pytest.raises(KeyboardInterrupt):
        encoder.encode_all(sounds, fails_at_five, {"a": 1}, make, "encoding")
    kept = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert len(kept) == 1
    assert done == [2000, 3000, 4000, 5000, 6000]

    features = encoder.encode_all(sounds, decode, {"a": 1}, make, "encoding")
    assert done[5:] == [5000, 6000, 7000, 8000]
    alone = make()
    for sound, found in zip(sounds, features, strict=True):
        assert found.dtype == torch.float16
        np.testing.assert_array_equal(found.numpy(), alone(sound).astype(np.float16))
    shards = list((tmp_path / "features").iterdir())
    assert len(shards) == 3

    shards[0].write_bytes(shards[0].read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=f"{shards[0].name}: damaged"):
        encoder.encode_all(sounds, lambda s: s, {"a": 1}, make, "encoding")


def test_an_encoder_is_known_by_its_weights_its_pin_or_its_commit(tmp_path, monkeypatch):
    for seed, name in enumerate(("one", "two")):
        whisper = tiny_paper.whisper()
        with torch.no_grad():
            whisper.model.encoder.layer_norm.bias.add_(seed)
        whisper.save_pretrained(tmp_path / name)
    one, two = (encoder.identity(str(tmp_path / name)) for name in ("one", "two"))
    assert one.keys() == two.keys() > {"model.safetensors", "config.json"}
    assert one != two
    assert "@" in encoder.identity("openai/whisper-large-v3")
    monkeypatch.setattr(models, "snapshot", lambda name: Path("snapshots", "c0ffee"))
    assert encoder.identity("a/whisper") == {"hub": "a/whisper", "revision": "c0ffee"}
    (tmp_path / "one").rename(tmp_path / encoder.DEFAULT)
    monkeypatch.chdir(tmp_path)
    assert encoder.identity(encoder.DEFAULT) == encoder.DEFAULT, "whatever lies around"


def test_a_ctranslate2_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "mine").symlink_to(assets.WHISPER_BASE.get())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(encoder.load("~/mine"), encoder.CTranslate2Encoder)
