"""The Whisper encoder: its input, what it refuses, its two back ends held against each other."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from kappa_lib import assets, audio, encoder, speech, whisper_convert
from kappa_lib.errors import AssetError, CheckpointError, InputError

# Two implementations of the same fp32 arithmetic, in other orders of summation; measured on this
# speech: 3e-6 on average and 3e-5 at most, where features have a root mean square of 1.4.
MEAN_DIFFERENCE, LARGEST_DIFFERENCE = 2e-5, 5e-4
FULL = int(encoder.MAX_SECONDS * encoder.RATE)


@cache
def spoken(corpus: str) -> np.ndarray:
    """Two seconds of a test sentence."""
    row = speech.build(corpus, 2, 2, seed=0)["test"][0]
    return audio.decode(row)[: 2 * encoder.RATE]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "whisper-base"
    return whisper_convert.convert(assets.whisper(), folder)


def tiny_whisper(bands: int = 80) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        num_mel_bins=bands,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return WhisperForConditionalGeneration(config).eval()


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


@pytest.mark.parametrize("pitch", [200, 400, 800])
def test_a_tone_lies_in_the_band_of_its_frequency(pitch):
    # Slaney's mel scale: linear up to 1 kHz, which is 15 mel, then logarithmic.
    highest = 15 + 27 * math.log(8_000 / 1_000) / math.log(6.4)
    width = highest / 81 * 1_000 / 15
    tone = np.sin(2 * np.pi * pitch * np.arange(encoder.RATE) / encoder.RATE)
    loudest = int(encoder.log_mel(tone).mean(axis=1).argmax())
    assert loudest == pytest.approx(pitch / width - 1, abs=0.6)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (np.zeros(0), "empty"),
        (np.array([0.1, np.nan, 0.2]), "not finite"),
        (np.array([0.1, np.inf]), "not finite"),
        (np.zeros((2, 16_000)), "not 1-D"),
        (np.zeros(FULL + 1), "30 s"),
    ],
)
def test_audio_that_whisper_cannot_hear_is_refused(bad, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        encoder.log_mel(bad)
    assert error.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["en", "de"])
def test_both_back_ends_agree_on_real_weights_and_speech(converted, corpus):
    first = encoder.CTranslate2Encoder(assets.whisper())(spoken(corpus))
    second = encoder.TransformersEncoder(converted)(spoken(corpus))
    assert first.shape == second.shape
    assert first.shape[1] == 512
    difference = np.abs(first - second)
    assert difference.mean() < MEAN_DIFFERENCE
    assert difference.max() < LARGEST_DIFFERENCE


def test_a_full_window_equals_the_modules_own_forward(tmp_path):
    whole = tiny_whisper(bands=128)
    whole.save_pretrained(tmp_path)
    noise = np.random.default_rng(1).normal(0, 0.1, FULL).astype(np.float32)
    mel = torch.from_numpy(encoder.log_mel(noise, 128))[None]
    with torch.inference_mode():
        expected = whole.model.encoder(mel).last_hidden_state[0].numpy()
    found = encoder.TransformersEncoder(tmp_path)(noise)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_the_encoder_is_loaded_and_nothing_is_said(tmp_path, capfd):
    tiny_whisper().save_pretrained(tmp_path)
    capfd.readouterr()
    loaded = encoder.load(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    own = tiny_whisper().model.encoder.state_dict()
    found = loaded._encoder.state_dict()
    assert found.keys() == own.keys()
    for name, value in found.items():
        assert torch.equal(value, own[name]), name


def test_other_weights_and_absent_folders_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whisper = tiny_whisper()
    whisper.model.encoder.layers = whisper.model.encoder.layers[:1]
    whisper.save_pretrained(tmp_path / "half")
    with pytest.raises(AssetError, match=r"half: 15 tensors .* missing"):
        encoder.load(str(tmp_path / "half"))
    with pytest.raises(AssetError, match="absent"):
        encoder.load(str(tmp_path / "absent"))


def test_conversion_undoes_what_ctranslate2s_own_converter_does(tmp_path):
    from ctranslate2.converters.transformers import WhisperLoader

    whisper = tiny_whisper()
    spec = WhisperLoader().get_model_spec(whisper)
    spec.register_vocabulary([f"token{i}" for i in range(64)])
    spec.validate()
    (tmp_path / "ct2").mkdir()
    spec.save(str(tmp_path / "ct2"))
    folder = whisper_convert.convert(tmp_path / "ct2", tmp_path / "hf")
    found = encoder.TransformersEncoder(folder)._encoder.state_dict()
    for name, value in whisper.model.encoder.state_dict().items():
        assert torch.equal(found[name], value), name


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.bin"
    start = (assets.whisper() / "model.bin").read_bytes()[:5000]
    for content, complaint in (
        (start, "ends after"),
        (b"\x05\x00\x00\x00" + start[4:], "binary version 5"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=complaint):
            whisper_convert.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
