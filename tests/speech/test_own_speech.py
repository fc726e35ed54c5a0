"""A user's own corpus from each kind of folder, with bad rows left out and counted."""

import csv

import datasets
import numpy as np
import pytest
import soundfile

from kappa_lib.errors import InputError
from kappa_lib.speech import audio, own_speech

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path / "cache"))


def sound_folder(folder, texts, rate: int = 22_050, channels: int = 2):
    """Sound files and their metadata.csv; returns the folder."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with open(folder / "metadata.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", "text"])
        for number, text in enumerate(texts):
            samples = generator.normal(0, 0.1, (rate, channels)).clip(-1, 1)
            soundfile.write(folder / f"{number}.wav", samples, rate)
            table.writerow([f"{number}.wav", text])
    return folder


def test_sound_files_are_resampled_and_split_by_sentence(tmp_path):
    texts = [*WORDS, "One!", "TWO"]
    parts = own_speech.from_folder(sound_folder(tmp_path / "mine", texts), "en", 3, 0)
    assert parts["train"].features == audio.FEATURES
    tested, trained = (
        {own_speech.sentence_key(t) for t in parts[p]["text"]} for p in ("test", "train")
    )
    assert len(tested) == 3
    assert not tested & trained
    assert tested | trained == set(WORDS)
    for item in parts["train"]:
        assert audio.decode(item).size == audio.RATE


def test_bad_rows_are_left_out_counted_and_named(tmp_path):
    folder = sound_folder(tmp_path / "mine", ["", *WORDS[1:]])
    soundfile.write(folder / "3.wav", np.zeros(800), 16_000)
    (folder / "4.wav").write_bytes(b"noise")
    (folder / "5.wav").unlink()
    lines = []
    parts = own_speech.from_folder(folder, "en", 1, 1, progress=lines.append)
    kept = {text for part in parts.values() for text in part["text"]}
    assert kept == set(WORDS) - {"zero", "three", "four", "five"}
    assert lines[-1] == "speech mine: 4 rows left out"
    assert any("mine-000003: silent" in line for line in lines)


def test_parquet_and_saved_datasets_keep_their_test_part(tmp_path):
    whole = own_speech.from_folder(sound_folder(tmp_path / "mine", WORDS), "en", 2, 0)
    whole.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    for name, part in whole.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{name}-00000.parquet"))
    for kind in ("saved", "parquet"):
        parts = own_speech.from_folder(tmp_path / kind, "en", 5, 9)
        assert parts["test"]["text"][:] == whole["test"]["text"][:]
        assert parts["train"]["text"][:] == whole["train"]["text"][:]


def test_sentences_of_a_given_test_part_leave_the_training_part(tmp_path):
    sound_folder(tmp_path / "mine/train", ["one", "two", "Three."])
    sound_folder(tmp_path / "mine/test", ["three"])
    parts = own_speech.from_folder(tmp_path / "mine", "en", 0, 0)
    assert (parts["train"]["text"][:], parts["test"]["text"][:]) == (["one", "two"], ["three"])


def test_a_changed_folder_is_read_again(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    first = own_speech.from_folder(folder, "en", 1, 0)
    lines = []
    own_speech.from_folder(folder, "en", 1, 0, progress=lines.append)
    assert lines == []
    (folder / "9.wav").unlink()
    second = own_speech.from_folder(folder, "en", 1, 0, progress=lines.append)
    assert sum(map(len, second.values())) == sum(map(len, first.values())) - 1


def test_unusable_folders_are_refused_by_name(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    (tmp_path / "empty").mkdir()
    for request, complaint in (
        ((tmp_path / "absent", "en", 1, 0), "absent: no such folder"),
        ((tmp_path / "empty", "en", 1, 0), "not readable as a dataset"),
        ((folder, "en", 1, 0, "sentence"), "no column sentence"),
        ((folder, "en", 10, 0), "10 different ones"),
    ):
        with pytest.raises(InputError, match=complaint):
            own_speech.from_folder(*request)


def test_a_corpus_without_a_usable_row_is_refused_and_leaves_nothing(tmp_path):
    folder = sound_folder(tmp_path / "mine", ["one", "two"])
    for path in folder.glob("*.wav"):
        path.write_bytes(b"noise")
    with pytest.raises(InputError, match="none of the 1 train rows is usable"):
        own_speech.from_folder(folder, "en", 1, 0)
    assert list((tmp_path / "cache/speech").iterdir()) == []
