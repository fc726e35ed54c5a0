"""A user's own corpus from each kind of folder, with bad rows left out and counted."""

from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from hub_files import sound_folder

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


def build(folder, test, seed=0, train=ALL, text="text"):
    source = OwnSpeech(str(folder), "en", text)
    return recorded.build(folder.name, source, train, test, seed)[0]


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
        assert item["id"].startswith("mine-")


def test_the_counts_hold_and_the_seed_chooses(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    parts = build(folder, 3, train=4)
    assert [len(parts[name]) for name in audio.PARTS] == [4, 3]
    more = build(folder, 3, train=6)
    assert more["test"]["id"][:] == parts["test"]["id"][:]
    assert more["train"]["id"][:4] == parts["train"]["id"][:]
    assert build(folder, 3, seed=1, train=4)["test"]["id"][:] != parts["test"]["id"][:]


def left_out(folder, test=1, seed=0):
    """The texts that are kept, and the reasons for the others, of both parts."""
    source = OwnSpeech(str(folder), "en", "text")
    parts, reasons = recorded.build(folder.name, source, ALL, test, seed)
    kept = {text for part in parts.values() for text in part["text"]}
    return kept, Counter(reasons["train"]) + Counter(reasons["test"])


def test_bad_rows_are_left_out_counted_and_named(tmp_path, said):
    words = ["", *WORDS[1:], "ten", "eleven", "twelve", "endless", "loud", "half"]
    folder = sound_folder(tmp_path / "mine", words)
    soundfile.write(folder / "3.wav", np.zeros(800), 16_000)
    (folder / "4.wav").write_bytes(b"noise")
    (folder / "5.wav").unlink()
    long = np.random.default_rng(0).normal(0, 0.1, 31 * 16_000).clip(-1, 1)
    for name, samples, rate in (("10", long, 16_000), ("11", long[:800], 16_000)):
        soundfile.write(folder / f"{name}.wav", samples, rate)
    soundfile.write(folder / "12.wav", long[:8_000], 4_000)
    endless = bytearray(audio.encode(long[:16_000]))
    endless[21] &= 0xF0  # the number of samples, 36 bits, 0 where it was not known
    endless[22:26] = bytes(4)
    (folder / "13.wav").write_bytes(endless)
    soundfile.write(folder / "14.wav", long[:16_000] * 32_767, 16_000, subtype="FLOAT")
    whole = (folder / "15.wav").read_bytes()
    (folder / "15.wav").write_bytes(whole[: len(whole) // 2])
    kept, reasons = left_out(folder, seed=1)
    assert kept == set(WORDS) - {"zero", "three", "four", "five"}
    assert any("mine-000003: silent" in line and "(3.wav)" in line for line in said)
    assert reasons == {
        "empty transcript": 1,
        "silent": 1,
        "not readable": 2,
        "no such file": 1,
        "longer than 30 s": 1,
        "shorter than 0.1 s": 1,
        "sampled below 8 kHz": 1,
        "samples beyond full scale": 1,
        "cut off": 1,
    }


def test_as_much_as_the_encoder_takes_is_kept_and_longer_is_left_out_unread(tmp_path, monkeypatch):
    folder = sound_folder(tmp_path / "mine", WORDS[:4])
    soundfile.write(folder / "2.wav", np.full(60 * 8_000, 0.5), 8_000)
    # Longer than 30 s by less than a sample at 16 kHz.
    soundfile.write(folder / "3.wav", np.full(30 * 48_000 + 1, 0.5), 48_000)
    seen, read = [], audio.read
    monkeypatch.setattr(audio, "read", lambda row: seen.append(row["id"]) or read(row))
    assert left_out(folder) == ({"zero", "one", "three"}, {"longer than 30 s": 1})
    assert sorted(seen) == ["mine-000000", "mine-000001", "mine-000003"]


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


def test_a_transcript_stays_as_it_is_written(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS[:8])
    rows = ["0.wav,null", "1.wav,NA", "", "2.wav,007", "3.wav,1.50", '4.wav,He said "no"']
    rows += ['5.wav,"one, two"', '6.wav,"so ""he"" said"', "7.wav,'tis"]
    rows = [f"{row},good" if row else row for row in rows]  # a column that hides no file names
    (folder / "metadata.csv").write_text("\ufefffile_name,text,audio\n" + "\n".join(rows))
    expected = {"null", "NA", "007", "1.50", 'He said "no"', "one, two", 'so "he" said', "'tis"}
    assert left_out(folder) == (expected, {})


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
        # Rows that run into each other, or apart:
        ("metadata.csv", b'file_name,text\n0.wav,"zero\n1.wav,one\n2.wav,"two"\n3.wav,three\n'),
        ("metadata.csv", b'file_name,text\n0.wav,"zero\n1.wav,one\n2.wav,two"\n3.wav,three\n'),
        ("metadata.csv", b'file_name,text\n0.wav,"zero\n1.wav,one\n'),
        ("metadata.csv", b"file_name,text\n0.wav,zero, and more\n1.wav,one\n"),
        ("metadata.csv", b"file_name,text\n0.wav,zero\n1.wav\n"),
        ("metadata.csv", "file_name,text\n0.wav,Übung\n1.wav,one\n".encode("latin-1")),
    ],
)
def test_a_malformed_table_is_refused_by_the_folder_s_name(tmp_path, name, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_bytes(content)
    with pytest.raises(InputError, match="mine") as found:
        build(tmp_path / "mine", 1)
    assert "no usable row" not in str(found.value)


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


@pytest.mark.parametrize("place", ["", "../data/", "/data/"])
def test_a_folder_is_read_again_only_when_a_recording_changes_wherever_it_lies(
    tmp_path, said, place
):
    folder = tmp_path / "mine"
    data = sound_folder(tmp_path / "data" if place else folder, WORDS)
    folder.mkdir(exist_ok=True)
    written = f"{tmp_path}{place}" if place.startswith("/") else place
    rows = [f"{written}{number}.wav,{word}\n" for number, word in enumerate(WORDS)]
    (folder / "metadata.csv").write_text("".join(["file_name,text\n", *rows]))
    first = build(folder, 1)
    said.clear()
    assert build(folder, 1)["train"][:] == first["train"][:]
    assert said == []
    (data / "9.wav").unlink()
    second = build(folder, 1)
    assert sum(map(len, second.values())) == sum(map(len, first.values())) - 1


def test_unusable_folders_are_refused_by_name(tmp_path):
    folder, broken = (sound_folder(tmp_path / name, WORDS) for name in ("mine", "broken"))
    for path in broken.glob("*.wav"):
        path.write_bytes(b"noise")
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
        (broken, {}, r"no usable row for test and train.*not readable"),
    ):
        with pytest.raises(InputError, match=complaint):
            build(Path(path), **{"test": 1, **request})
    assert not list((tmp_path / "cache/speech").glob("broken*"))


def test_paths_in_parquet_files_are_read_where_they_are_absolute(tmp_path, monkeypatch):
    folder = sound_folder(tmp_path / "mine" / "data", WORDS).parent
    elsewhere = sound_folder(tmp_path / "elsewhere", WORDS, seed=9)
    names = [*(f"{folder}/data/{number}.wav" for number in range(9)), "9.wav"]
    sounds = [{"bytes": None, "path": name} for name in names]
    pd.DataFrame({"audio": sounds, "text": WORDS}).to_parquet(folder / "data/train.parquet")
    (folder / "data/metadata.csv").unlink()
    monkeypatch.chdir(elsewhere)
    _, reasons = left_out(folder)
    assert reasons == {"no such file": 1}
    for part in build(folder, 1).values():
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
    parts = build(folder, 4)
    heard = {part: {row["audio"]["bytes"] for row in rows} for part, rows in parts.items()}
    assert not heard["train"] & heard["test"]
    assert len(heard["test"]) == 4
    _, reasons = left_out(folder, test=4)
    assert reasons["recording of the test set, again"] >= 2
    assert any("recording of the test set, again" in line for line in said)
