"""Rows of speech: what goes in comes out, and what cannot be used is refused by name."""

import io

import numpy as np
import pytest
import soundfile
from datasets import Dataset

from kappa_lib.errors import AssetError, InputError
from kappa_lib.speech import audio

TONE = np.sin(np.arange(8000, dtype=np.float32) * 0.1) * 0.5


def wav(samples: np.ndarray, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, audio.RATE, format=format, subtype=subtype)
    return buffer.getvalue()


def row(data: bytes | None, text: str = "a tone", identity: str = "row-7") -> dict:
    return {"id": identity, "audio": {"bytes": data, "path": None}, "text": text}


def full_row(number: int) -> dict:
    return row(audio.encode(TONE), f"tone {number}", f"row-{number}")


def test_flac_keeps_samples_to_half_a_step_and_a_path_is_read_like_bytes(tmp_path):
    assert np.abs(audio.decode(row(audio.encode(TONE))) - TONE).max() <= 1 / 32768
    (tmp_path / "tone.wav").write_bytes(wav(TONE))
    item = {"id": "x", "audio": {"bytes": None, "path": str(tmp_path / "tone.wav")}, "text": "a"}
    np.testing.assert_array_equal(audio.decode(item), audio.decode(row(wav(TONE))))


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (row(b"RIFF, not really"), "not readable as audio"),
        (row(audio.encode(TONE)[:20]), "not readable as audio"),
        (row(None), "no audio"),
        (row(wav(np.zeros(8000, np.float32))), "silent"),
        (row(wav(np.zeros(0, np.float32))), "silent"),
        (row(wav(TONE * 1e-5, subtype="FLOAT")), "silent"),
        (row(wav(np.full(800, np.nan, np.float32), subtype="FLOAT")), "NaN or infinite"),
        (row(wav(TONE), ""), "empty transcript"),
        (row(wav(TONE), " ... "), "empty transcript"),
    ],
)
def test_unusable_rows_are_refused_by_name(item, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        audio.check(item, audio.read(item)[0])
    assert "row-7" in str(error.value)
    assert error.value.remedy


FORMATS = [
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24")),
    *(("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16")),
    *(("CAF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_recording_that_was_cut_off_is_refused_and_a_whole_one_read(format, subtype, share):
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * audio.RATE).clip(-1, 1)
    whole = wav(noise, subtype, format)
    assert audio.read(row(whole))[0].size == pytest.approx(4 * audio.RATE, abs=3000)
    with pytest.raises(audio.UnusableRow, match=r"row-7: (cut off|not readable)"):
        audio.read(row(whole[: int(share * len(whole))]))


@pytest.mark.parametrize(
    ("riff", "data", "is_read"),
    [
        *((0, 0, False), (64_036, 0, False)),  # a recorder that was cut off
        *((0, 64_000, True), (2**32 - 1, 2**32 - 1, True), (0x7FFFF024, 0x7FFFF000, True)),  # pipes
        (64_044, 64_000, True),  # counts its own header
    ],
)
def test_a_header_without_a_length_is_read_to_the_end_or_said_to_be_unfinished(riff, data, is_read):
    file = bytearray(wav(np.tile(TONE, 4)))
    file[4:8], file[40:44] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
    if is_read:
        assert audio.read(row(bytes(file)))[0].size == 4 * TONE.size
    else:
        with pytest.raises(audio.UnusableRow, match="cut off, its header says 0 bytes"):
            audio.read(row(bytes(file)))


@pytest.mark.parametrize("scale", [32_767, 127, 5])
def test_integers_that_are_stored_as_floats_are_refused_not_clipped(scale):
    with pytest.raises(audio.UnusableRow, match="beyond full scale"):
        audio.read(row(wav(TONE * scale, subtype="FLOAT")))
    audio.read(row(wav(TONE * 2.2, subtype="FLOAT")))  # a decoder's overshoot


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.wav").write_bytes(wav(TONE))
    for path in ("/absent/here.wav", "here.wav", str(tmp_path)):
        item = {"id": "row-7", "audio": {"bytes": None, "path": path}, "text": "a"}
        with pytest.raises(audio.UnusableRow, match="row-7: no such file"):
            audio.read(item)
        assert audio.seconds(item) == 0


def test_trim_cuts_silence_and_leaves_a_margin():
    silence = np.zeros(4000, np.float32)
    trimmed = audio.trim(np.concatenate([silence, TONE, silence]))
    assert trimmed.size == pytest.approx(TONE.size + 1600, abs=2)
    assert audio.trim(silence).size == silence.size


def test_parts_come_back_with_their_features(tmp_path):
    rows = [full_row(number) for number in range(130)]
    audio.write_part(tmp_path, "train", rows)
    audio.write_part(tmp_path, "test", [])
    parts = audio.load_parts(tmp_path)
    assert list(parts) == ["train"]
    assert isinstance(parts["train"], Dataset)
    assert parts["train"].features == audio.FEATURES
    assert parts["train"]["id"][:] == [r["id"] for r in rows]
    assert parts["train"][129]["audio"]["bytes"] == rows[129]["audio"]["bytes"]


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_part_that_ends_too_early_is_refused(tmp_path, monkeypatch, share):
    monkeypatch.setattr(audio, "_BATCH", 2)
    audio.write_part(tmp_path, "train", [full_row(0)] * 8)
    audio.write_part(tmp_path, "test", [])
    path = tmp_path / "train.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(AssetError, match="damaged"):
        audio.load_parts(tmp_path)
