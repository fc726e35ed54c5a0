"""A user's own corpus from each kind of folder, with bad rows left out and counted."""

import csv
import errno
import os
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile
from datasets.exceptions import DatasetGenerationError

from kappa_lib.errors import InputError, SpaceError
from kappa_lib.speech import audio, recorded
from kappa_lib.speech.corpora import sentence_key
from kappa_lib.speech.sources import OwnSpeech, listing

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
        "not readable": 2,
        "longer than 30 s": 1,
        "shorter than 0.1 s": 1,
        "sampled below 8 kHz": 1,
    }


def test_headerless_and_endless_recordings_are_left_out_as_unreadable(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    table = folder / "metadata.csv"
    table.write_text(table.read_text().replace("0.wav", "0.raw"))
    (folder / "0.wav").rename(folder / "0.raw")
    endless = bytearray(audio.encode(np.random.default_rng(0).normal(0, 0.1, 16_000).clip(-1, 1)))
    endless[21] &= 0xF0  # the number of samples, 36 bits, 0 where it was not known
    endless[22:26] = bytes(4)
    (folder / "1.wav").write_bytes(endless)
    parts, left_out = recorded.build("mine", OwnSpeech(str(folder), "en", "text"), ALL, 3, 0)
    assert {text for part in parts.values() for text in part["text"]} == set(WORDS[2:])
    assert Counter(left_out["train"]) + Counter(left_out["test"]) == {"not readable": 2}


def test_what_is_too_long_is_left_out_unread(tmp_path, monkeypatch, said):
    folder = sound_folder(tmp_path / "mine", WORDS)
    soundfile.write(folder / "3.wav", np.full(60 * 8_000, 0.5), 8_000)
    # As long as the encoder hears, and longer by less than a sample at 16 kHz.
    soundfile.write(folder / "4.wav", np.full(30 * 48_000 + 1, 0.5), 48_000)
    seen, read = [], soundfile.read

    def reading(source, **how):
        seen.append(Path(source).name)
        return read(source, **how)

    monkeypatch.setattr(soundfile, "read", reading)
    parts = build(folder, 1)
    kept = {text for part in parts.values() for text in part["text"]}
    assert kept == set(WORDS) - {"three"}
    assert any("longer than 30 s, it lasts 60.0 s (3.wav)" in line for line in said)
    assert sorted(seen) == sorted(f"{number}.wav" for number in range(10) if number != 3)


def test_parquet_and_saved_datasets_keep_their_test_part(tmp_path):
    whole = build(sound_folder(tmp_path / "mine", WORDS), 2)
    whole.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    for name, part in whole.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{name}-00000.parquet"))
    for kind in ("saved", "parquet"):
        parts = build(tmp_path / kind, 5, seed=9)
        for name in audio.PARTS:
            assert sorted(parts[name]["text"]) == sorted(whole[name]["text"])


@pytest.mark.parametrize("text", ["string", "large_string"])
def test_nothing_is_written_into_a_saved_dataset(tmp_path, text):
    whole = build(sound_folder(tmp_path / "mine", WORDS), 2)["train"]
    whole = whole.cast_column("text", datasets.Value(text)).with_format("numpy")
    saved = tmp_path / "saved"
    whole.cast_column("audio", datasets.Audio()).save_to_disk(str(saved), num_shards=2)
    before = listing(saved)
    parts = build(saved, 1)
    assert listing(saved) == before
    flac = {row["text"]: row["audio"]["bytes"] for part in parts.values() for row in part}
    assert flac == {row["text"]: row["audio"]["bytes"] for row in whole.with_format(None)}


def test_sentences_of_a_given_test_part_leave_the_training_part(tmp_path):
    sound_folder(tmp_path / "mine/train", ["one", "two", "Three.", "Four"])
    sound_folder(tmp_path / "mine/test", ["three", "four"])
    parts = build(tmp_path / "mine", 2)
    assert [sorted(parts[name]["text"]) for name in audio.PARTS] == [
        ["one", "two"],
        ["four", "three"],
    ]
    # A test sentence that this run does not use is still none to train on.
    few = build(tmp_path / "mine", 1)
    assert [len(few[name]) for name in audio.PARTS] == [2, 1]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_metadata_table_of_the_audiofolder_convention_is_read(tmp_path, kind):
    folder = sound_folder(tmp_path / "mine", WORDS)
    expected = build(folder, 2)["train"]["text"][:]
    table = pd.read_csv(folder / "metadata.csv")
    (folder / "metadata.csv").unlink()
    if kind == "jsonl":
        table.to_json(folder / "metadata.jsonl", orient="records", lines=True)
    else:
        table.to_parquet(folder / "metadata.parquet")
    assert build(folder, 2)["train"]["text"][:] == expected


def test_two_tables_of_one_part_are_refused_by_name(tmp_path):
    folder = sound_folder(tmp_path / "train", WORDS)
    sound_folder(folder / "train", ["ten", "eleven"])
    with pytest.raises(InputError, match=r"both metadata.csv and train/metadata.csv .*part train"):
        build(folder, 1)
    folder = sound_folder(tmp_path / "mine", WORDS)
    pd.read_csv(folder / "metadata.csv").to_json(
        folder / "metadata.jsonl", orient="records", lines=True
    )
    with pytest.raises(InputError, match=r"both metadata.csv and metadata.jsonl .*part mine"):
        build(folder, 1)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_without_transcript_is_left_out_and_one_without_speaker_is_kept(tmp_path, kind):
    folder = sound_folder(tmp_path / "mine", WORDS)
    (folder / "metadata.csv").unlink()
    table = pd.DataFrame(
        {
            "file_name": [f"{number}.wav" for number in range(len(WORDS))],
            "text": [None, *WORDS[1:]],
            "speaker": ["ann", None, *["bob"] * 8],
        }
    )
    if kind == "jsonl":
        table.to_json(folder / "metadata.jsonl", orient="records", lines=True)
    else:
        table.to_parquet(folder / "metadata.parquet")
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
        ("metadata.jsonl", b"[1, 2]\n[3, 4]\n"),
        ("metadata.jsonl", b"{"),
        ("metadata.parquet", b"PAR1 and nothing more"),
        ("train.parquet", b"PAR1 and nothing more"),
        ("dataset_info.json", b"{}"),
        ("dataset_dict.json", b"[]"),
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


def test_a_change_behind_a_link_is_noticed_and_a_loop_ends(tmp_path):
    data = sound_folder(tmp_path / "data", WORDS)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train").symlink_to(data)
    (data / "back").symlink_to(folder)
    (data / "up").symlink_to(tmp_path)
    first = build(folder, 1)
    (data / "9.wav").unlink()
    second = build(folder, 1)
    assert sum(map(len, second.values())) == sum(map(len, first.values())) - 1
    names = ["metadata.csv", *(f"{number}.wav" for number in range(9))]
    assert sorted(name for name, _, _ in listing(folder)) == sorted(f"train/{n}" for n in names)


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


def test_the_origin_of_a_folder_with_all_its_recordings_is_its_listing(tmp_path):
    folder = sound_folder(tmp_path / "mine/train", WORDS).parent
    for way in (folder, folder / "../mine"):
        origin = OwnSpeech(str(way), "en", "text").origin("mine")
        assert origin == [listing(folder), "en", "text"]


def test_the_listing_of_a_folder_without_links_is_of_all_its_files(tmp_path):
    sound_folder(tmp_path / "mine/b/c", ["one"])
    sound_folder(tmp_path / "mine/b-c", ["one"])
    (tmp_path / "mine/.hidden").touch()
    (tmp_path / "mine/empty").mkdir()
    (tmp_path / "mine/broken").symlink_to(tmp_path / "absent")
    for pattern in ("*", "*.csv"):
        every = [p for p in sorted((tmp_path / "mine").rglob(pattern)) if p.is_file()]
        assert listing(tmp_path / "mine", pattern) == [
            [str(p.relative_to(tmp_path / "mine")), p.stat().st_size, p.stat().st_mtime_ns]
            for p in every
        ]


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


def test_a_disk_that_fills_up_is_no_fault_of_the_folder(tmp_path, monkeypatch):
    def refused(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise DatasetGenerationError("An error occurred") from error

    monkeypatch.setattr(datasets, "load_dataset", refused)
    (tmp_path / "train.parquet").touch()
    with pytest.raises(SpaceError, match="datasets: the disk is full"):
        build(tmp_path, 1)


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


def test_the_length_of_recordings_is_known_from_their_headers(tmp_path):
    folder = sound_folder(tmp_path / "mine", WORDS)
    soundfile.write(folder / "3.wav", np.zeros(3 * 16_000), 16_000)
    (folder / "4.wav").write_bytes(b"noise")
    mean, longest = OwnSpeech(str(folder), "en", "text").seconds()
    assert longest == 3.0
    assert mean == pytest.approx((8 + 3) / 9)
