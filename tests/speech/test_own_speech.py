"""A user's own corpus from each kind of folder, with bad rows left out and counted."""

import csv
import os
import unicodedata
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

from kappa_lib.errors import InputError
from kappa_lib.speech import audio, recorded
from kappa_lib.speech.sources import OwnSpeech
from kappa_lib.speech.transcripts import sentence_key

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path / "cache"))


ALL = 100  # more than any folder here has


@pytest.fixture
def said(monkeypatch):
    """What is reported on the way."""
    lines = []
    monkeypatch.setattr(recorded, "say", lines.append)
    return lines


def build(folder, test, seed=0, train=ALL, text="text"):
    source = OwnSpeech(str(folder), "en", text)
    return recorded.build(folder.name, source, train, test, seed)[0]


def sound_folder(folder, texts, rate: int = 22_050, channels: int = 2, seed: int = 0):
    """Sound files and their metadata.csv; returns the folder."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
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
    parts = build(sound_folder(tmp_path / "mine", texts), 3)
    assert parts["train"].features == audio.FEATURES
    tested, trained = ({sentence_key(t) for t in parts[p]["text"]} for p in ("test", "train"))
    assert len(tested) == 3
    assert not tested & trained
    assert tested | trained == set(WORDS)
    for item in parts["train"]:
        assert audio.decode(item).size == audio.RATE
        assert (item["language"], item["corpus"]) == ("en", "mine")


def test_the_counts_hold_and_the_seed_chooses(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    parts = build(folder, 3, train=4)
    assert [len(parts[name]) for name in audio.PARTS] == [4, 3]
    more = build(folder, 3, train=6)
    assert more["test"]["id"][:] == parts["test"]["id"][:]
    assert more["train"]["id"][:4] == parts["train"]["id"][:]
    assert build(folder, 3, seed=1, train=4)["test"]["id"][:] != parts["test"]["id"][:]


def test_bad_rows_are_left_out_counted_and_named(tmp_path, said):
    folder = sound_folder(tmp_path / "mine", ["", *WORDS[1:], "ten", "eleven", "twelve"])
    soundfile.write(folder / "3.wav", np.zeros(800), 16_000)
    (folder / "4.wav").write_bytes(b"noise")
    (folder / "5.wav").unlink()
    loud = np.random.default_rng(0).normal(0, 0.1, 31 * 16_000).clip(-1, 1)
    for name, samples, rate in (("10", loud, 16_000), ("11", loud[:800], 16_000)):
        soundfile.write(folder / f"{name}.wav", samples, rate)
    soundfile.write(folder / "12.wav", loud[:8_000], 4_000)
    parts = build(folder, 1, seed=1)
    kept = {text for part in parts.values() for text in part["text"]}
    assert kept == set(WORDS) - {"zero", "three", "four", "five"}
    assert said[-1] == "speech mine: 7 rows left out"
    assert any("mine-000003: silent" in line and "(3.wav)" in line for line in said)
    _, found = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 1, 1)
    assert Counter(found["train"]) + Counter(found["test"]) == {
        "empty transcript": 1,
        "silent": 1,
        "not readable": 1,
        "no such file": 1,
        "longer than 30 s": 1,
        "shorter than 0.1 s": 1,
        "sampled below 8 kHz": 1,
    }


def test_a_recording_without_a_known_length_is_left_out(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    endless = bytearray(audio.encode(np.random.default_rng(0).normal(0, 0.1, 16_000).clip(-1, 1)))
    endless[21] &= 0xF0  # the number of samples, 36 bits, 0 where it was not known
    endless[22:26] = bytes(4)
    (folder / "1.wav").write_bytes(endless)
    parts, left_out = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 3, 0)
    assert {text for part in parts.values() for text in part["text"]} == {*WORDS} - {"one"}
    assert Counter(left_out["train"]) + Counter(left_out["test"]) == {"not readable": 1}


def test_what_is_too_long_is_left_out_unread(tmp_path, monkeypatch, said):
    folder = sound_folder(tmp_path / "mine", WORDS)
    soundfile.write(folder / "3.wav", np.full(60 * 8_000, 0.5), 8_000)
    # As long as the encoder hears, and longer by less than a sample at 16 kHz.
    soundfile.write(folder / "4.wav", np.full(30 * 48_000 + 1, 0.5), 48_000)
    seen, read = [], audio.read

    def reading(item):
        seen.append(Path(item["audio"]["path"]).name)
        return read(item)

    monkeypatch.setattr(audio, "read", reading)
    parts = build(folder, 1)
    kept = {text for part in parts.values() for text in part["text"]}
    assert kept == set(WORDS) - {"three"}
    assert any("longer than 30 s, it lasts 60.0 s (3.wav)" in line for line in said)
    assert sorted(seen) == sorted(f"{number}.wav" for number in range(10) if number != 3)


def test_parquet_files_keep_their_test_part(tmp_path):
    whole = build(sound_folder(tmp_path / "mine", WORDS), 2)
    (tmp_path / "parquet").mkdir()
    for name, part in whole.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{name}-00000.parquet"))
    parts = build(tmp_path / "parquet", 5, seed=9)
    for name in audio.PARTS:
        assert sorted(parts[name]["text"]) == sorted(whole[name]["text"])
        flac = {row["text"]: row["audio"]["bytes"] for row in parts[name]}
        assert flac == {row["text"]: row["audio"]["bytes"] for row in whole[name]}


def test_sentences_of_a_given_test_part_leave_the_training_part(tmp_path):
    sound_folder(tmp_path / "mine/train", ["one", "two", "Three.", "Four"])
    sound_folder(tmp_path / "mine/test", ["three", "four"], seed=1)
    parts = build(tmp_path / "mine", 2)
    assert [sorted(parts[name]["text"]) for name in audio.PARTS] == [
        ["one", "two"],
        ["four", "three"],
    ]
    # A test sentence that this run does not use is still none to train on.
    few = build(tmp_path / "mine", 1)
    assert [len(few[name]) for name in audio.PARTS] == [2, 1]


def test_a_row_without_transcript_is_left_out_and_one_without_speaker_is_kept(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    table = pd.DataFrame(
        {
            "file_name": [f"{number}.wav" for number in range(len(WORDS))],
            "text": ["", *WORDS[1:]],
            "speaker": ["ann", "", *["bob"] * 8],
        }
    )
    table.to_csv(folder / "metadata.csv", index=False)
    parts, left_out = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 2, 0)
    speakers = {row["text"]: row["speaker"] for part in parts.values() for row in part}
    assert speakers == {"one": "", **dict.fromkeys(WORDS[2:], "bob")}
    assert left_out == {"train": {"empty transcript": 1}, "test": {}}


def test_numbers_and_words_for_nothing_stay_as_they_are_written(tmp_path):
    folder = sound_folder(tmp_path / "mine", ["null", "NA", "007", "1.50", "two, three"])
    parts = build(folder, 1)
    kept = {text for part in parts.values() for text in part["text"]}
    assert kept == {"null", "NA", "007", "1.50", "two, three"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b""),
        ("metadata.csv", b"\x00\xff\xfe"),
        ("metadata.csv", b"file_name,text\n"),
        ("metadata.csv", b"file_name;text\n0.wav;one\n"),
        ("metadata.csv", b"file_name,text\n0.wav,one,two,three\n1.wav\n"),
        ("train.parquet", b"PAR1 and nothing more"),
        ("metadata.csv", b"file_name,text,text\n0.wav,one,two"),
    ],
)
def test_a_malformed_table_is_refused_by_the_folder_s_name(tmp_path, name, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_bytes(content)
    with pytest.raises(InputError, match="mine"):
        build(tmp_path / "mine", 1)


@pytest.mark.parametrize(
    "columns",
    [
        {"audio": ["a.wav", "b.wav"], "text": [["one"], ["two"]]},
        {"audio": [1, 2], "text": ["one", "two"]},
        {"audio": [{"array": [0.5]}, None], "text": ["one", "two"]},
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, columns):
    (tmp_path / "mine").mkdir()
    pd.DataFrame(columns).to_parquet(tmp_path / "mine" / "train.parquet")
    with pytest.raises(InputError, match="mine"):
        build(tmp_path / "mine", 1)


def test_a_changed_folder_is_read_again(tmp_path, said):
    folder = sound_folder(tmp_path / "mine", WORDS)
    first = build(folder, 1)
    said.clear()
    build(folder, 1)
    assert said == []
    (folder / "9.wav").unlink()
    second = build(folder, 1)
    assert sum(map(len, second.values())) == sum(map(len, first.values())) - 1


@pytest.mark.parametrize("up", [True, False])
def test_a_change_of_a_recording_elsewhere_is_noticed(tmp_path, up):
    data, folder = sound_folder(tmp_path / "data", WORDS), tmp_path / "mine"
    folder.mkdir()
    rows = [f"{'../data' if up else data}/{number}.wav,{w}\n" for number, w in enumerate(WORDS)]
    (folder / "metadata.csv").write_text("".join(["file_name,text\n", *rows]))
    first = build(folder, 1)
    (data / "9.wav").unlink()
    second = build(folder, 1)
    assert sum(map(len, second.values())) == sum(map(len, first.values())) - 1


def test_two_that_make_the_same_at_once_both_get_it(tmp_path, monkeypatch):
    folder = sound_folder(tmp_path / "mine", WORDS)
    write, faster = audio.write_part, []

    def slow(*about):
        write(*about)
        if not faster:  # another process starts after this one and is done before it
            with monkeypatch.context() as other:
                other.setattr(audio, "write_part", write)
                other.setattr(os, "getpid", lambda: 0)
                faster.append(build(folder, 2))

    monkeypatch.setattr(audio, "write_part", slow)
    parts = build(folder, 2)
    assert parts["train"][:] == faster[0]["train"][:]
    assert len(list((tmp_path / "cache/speech").iterdir())) == 1


def test_unusable_folders_are_refused_by_name(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    (tmp_path / "empty").mkdir()
    for path, request, complaint in (
        (tmp_path / "absent", {}, "absent: no such folder"),
        (tmp_path / "empty", {}, "not readable as a dataset"),
        (
            folder,
            {"text": "sentence"},
            r"has no column sentence\n.*it has file_name, text",
        ),
        ("~nobody-here", {}, "~nobody-here: no such folder"),
        (folder, {"test": 10}, "10 different ones"),
    ):
        with pytest.raises(InputError, match=complaint):
            build(Path(path), **{"test": 1, **request})


def test_a_corpus_without_a_usable_row_is_refused_and_leaves_nothing(tmp_path):
    folder = sound_folder(tmp_path / "mine", ["one", "two"])
    for path in folder.glob("*.wav"):
        path.write_bytes(b"noise")
    with pytest.raises(InputError, match=r"no usable row for test and train.*not readable"):
        build(folder, 1)
    assert list((tmp_path / "cache/speech").iterdir()) == []


@pytest.mark.parametrize(
    "lines",
    [
        ['0.wav,"zero', "1.wav,one", '2.wav,"two', "3.wav,three"],
        ['0.wav,"zero', "1.wav,one", '2.wav,two"', "3.wav,three"],
        ['0.wav,"zero', "1.wav,one"],
        ['0.wav,"zero" he said', "1.wav,one"],
        ["0.wav,zero, and more", "1.wav,one"],
        ["0.wav,zero", "1.wav"],
    ],
)
def test_a_table_whose_rows_run_into_each_other_is_refused_by_line(tmp_path, lines):
    folder = sound_folder(tmp_path / "mine", WORDS)
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    with pytest.raises(InputError, match=r"metadata\.csv, line \d") as found:
        build(folder, 1)
    assert "quotation mark" in found.value.remedy


def test_a_column_called_audio_does_not_hide_the_file_names(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS[:3])
    rows = [f"{number}.wav,{word},good" for number, word in enumerate(WORDS[:3])]
    (folder / "metadata.csv").write_text("file_name,text,audio\n" + "\n".join(rows))
    parts = build(folder, 1)
    assert {text for part in parts.values() for text in part["text"]} == set(WORDS[:3])


def test_quotation_marks_and_commas_that_are_written_well_are_read(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS[:4])
    rows = ['0.wav,He said "no', '1.wav,"one, two"', '2.wav, "so ""he"" said"', "3.wav,'tis"]
    (folder / "metadata.csv").write_text("file_name,text\n\n" + "\n".join(rows))
    parts = build(folder, 1)
    kept = {text for part in parts.values() for text in part["text"]}
    assert kept == {'He said "no', "one, two", 'so "he" said', "'tis"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("table", ["NFC", "NFD"])
def test_names_are_found_composed_decomposed_and_with_backslashes(tmp_path, form, table):
    folder = sound_folder(tmp_path / "mine", WORDS[:3])
    (folder / "wavs").mkdir()
    names = [unicodedata.normalize(form, f"wavs/Übung {n}.wav") for n in range(3)]
    for number, name in enumerate(names):
        (folder / f"{number}.wav").rename(folder / name)
    written = [unicodedata.normalize(table, name) for name in names]
    written[0] = written[0].replace("/", "\\")
    rows = [f"{name},{WORDS[n]}" for n, name in enumerate(written)]
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows), encoding="utf-8")
    parts = build(folder, 1)
    assert {text for part in parts.values() for text in part["text"]} == set(WORDS[:3])


@pytest.mark.parametrize("as_struct", [True, False])
def test_paths_in_parquet_files_start_from_their_folder(tmp_path, monkeypatch, as_struct):
    folder = sound_folder(tmp_path / "mine" / "data", WORDS).parent
    elsewhere = sound_folder(tmp_path / "elsewhere", WORDS, seed=9)
    names = [f"{number}.wav" for number in range(10)]
    sounds = [{"bytes": None, "path": name} for name in names] if as_struct else names
    pd.DataFrame({"audio": sounds, "text": WORDS}).to_parquet(folder / "data/train.parquet")
    (folder / "data/metadata.csv").unlink()
    (folder / "data/9.wav").unlink()
    monkeypatch.chdir(elsewhere)
    parts, left_out = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 1, 0)
    assert Counter(left_out["train"]) + Counter(left_out["test"]) == {"no such file": 1}
    for part in parts.values():
        for row in part:
            path = folder / "data" / f"{WORDS.index(row['text'])}.wav"
            same = {"id": "x", "audio": {"bytes": None, "path": str(path)}, "text": "x"}
            samples = soxr.resample(audio.read(same)[0], 22_050, audio.RATE)
            np.testing.assert_allclose(audio.decode(row), samples.clip(-1, 1), atol=1e-4)


def test_a_recording_is_not_trained_on_where_it_is_tested(tmp_path, said):
    folder = sound_folder(tmp_path / "mine", WORDS)
    again = [f"{number}.wav,{word} again" for number, word in enumerate(WORDS)]
    soundfile.write(folder / "same.flac", *soundfile.read(folder / "3.wav"))
    again.append("same.flac,three in another file")
    with open(folder / "metadata.csv", "a") as stream:
        stream.write("\n".join(again) + "\n")
    parts, left_out = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 4, 0)
    heard = {part: {row["audio"]["bytes"] for row in rows} for part, rows in parts.items()}
    assert not heard["train"] & heard["test"]
    assert len(heard["test"]) == 4
    assert left_out["train"]["recording of the test set, again"] >= 2
    assert any("recording of the test set, again" in line for line in said)


def test_what_a_float_recording_of_integers_would_become_is_left_out(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    samples, rate = soundfile.read(folder / "3.wav")
    soundfile.write(folder / "3.wav", samples * 32_767, rate, subtype="FLOAT")
    whole = (folder / "4.wav").read_bytes()
    (folder / "4.wav").write_bytes(whole[: len(whole) // 2])
    parts, left_out = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 1, 0)
    assert {text for p in parts.values() for text in p["text"]} == {*WORDS} - {"three", "four"}
    found = Counter(left_out["train"]) + Counter(left_out["test"])
    assert found == {"samples beyond full scale": 1, "cut off": 1}
