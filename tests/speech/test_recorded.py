"""LibriSpeech and MLS German from Parquet files in their own layout, schema and audio formats."""

import datasets
import hub_files
import huggingface_hub
import numpy as np
import pytest

from kappa_lib.errors import AssetError, InputError
from kappa_lib.speech import audio, recorded
from kappa_lib.speech.sources import HUB


def build(corpus, train, test, seed):
    return recorded.build(corpus, HUB[corpus], train, test, seed)[0]


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KAPPA_CORPORA", str(tmp_path / "corpora"))
    return tmp_path / "corpora"


@pytest.mark.parametrize("corpus", HUB)
def test_rows_come_out_typed_at_16_khz_with_their_own_ids(corpora, corpus):
    hub_files.write_both(corpora, train=8, test=3)
    built = build(corpus, 6, 3, 0)
    assert [len(built[part]) for part in audio.PARTS] == [6, 3]
    assert built["train"].features == audio.FEATURES
    make = {"librispeech": hub_files.librispeech_row, "mls_german": hub_files.mls_row}[corpus]
    column = HUB[corpus].text
    originals = {f"{corpus}-{make(n)['id']}": make(n) for n in (*range(8), *range(1000, 1003))}
    for part in audio.PARTS:
        for row in built[part]:
            original = originals[row["id"]]
            assert row["text"] == original[column].lower()
            samples = audio.decode(row)
            if corpus == "librispeech":  # FLAC, which survives to the last bit
                np.testing.assert_array_equal(samples, audio.read(original)[0])
            assert samples.size / audio.RATE == pytest.approx(1.0, abs=0.01)


def test_unusable_rows_are_left_out_counted_and_reported(corpora, said):
    make = hub_files.librispeech_row
    bad = [
        make(0, audio=None),
        make(1, audio={"bytes": None, "path": None}),
        make(2, text=""),
        make(3, text=None),
        make(4, seconds=30.5),
        make(6, audio={"bytes": b"noise", "path": "noise.flac"}),
    ]
    good = [make(number) for number in range(7, 10)]
    hub_files.write_librispeech(corpora, "train.clean.100", [*bad, *good])
    hub_files.write_librispeech(corpora, "test.clean", [make(number) for number in range(20, 23)])
    built, left_out = recorded.build("librispeech", HUB["librispeech"], 10, 2, 0)
    assert sorted(built["train"]["id"]) == sorted(f"librispeech-{row['id']}" for row in good)
    expected = {"no audio": 2, "empty transcript": 2, "longer than 30 s": 1, "not readable": 1}
    assert left_out == {"train": expected, "test": {}}
    assert "speech librispeech: 2 train rows left out: no audio" in said
    assert "speech librispeech: 10 train rows asked for, 3 usable" in said


def test_the_second_part_of_the_training_data_follows_the_first(corpora):
    make = hub_files.librispeech_row
    hub_files.write_librispeech(corpora, "train.clean.100", [make(n) for n in range(3)])
    hub_files.write_librispeech(corpora, "train.clean.360", [make(n) for n in range(10, 15)])
    built = build("librispeech", 5, 0, 0)
    numbers = [int(name.rpartition("-")[2]) for name in built["train"]["id"]]
    assert sorted(numbers[:3]) == [0, 1, 2]
    assert all(number >= 10 for number in numbers[3:])


def test_order_depends_on_the_seed_and_more_rows_only_add(corpora):
    hub_files.write_both(corpora, train=24, test=1)

    def ids(count, seed):
        return build("mls_german", count, 0, seed)["train"]["id"][:]

    assert ids(20, 0)[:5] == ids(5, 0)
    assert ids(5, 0) != ids(5, 1)


def test_what_was_kept_is_read_until_a_file_changes_and_refused_in_part(corpora, said, tmp_path):
    hub_files.write_both(corpora, train=4, test=2)
    first = build("mls_german", 4, 2, 0)
    count = len(said)
    again = build("mls_german", 4, 2, 0)
    assert again["train"]["id"][:] == first["train"]["id"][:]
    assert len(said) == count
    next((tmp_path / "cache" / "speech").glob("*/test.arrow")).unlink()
    with pytest.raises(AssetError, match=r"damaged.*test\.arrow"):
        build("mls_german", 4, 2, 0)
    hub_files.write_mls(corpora, "test", [hub_files.mls_row(n) for n in (50, 51)])
    changed = build("mls_german", 4, 2, 0)
    assert sorted(changed["test"]["id"]) != sorted(first["test"]["id"])


def test_unusable_requests_are_refused_and_leave_nothing(corpora):
    with pytest.raises(InputError, match="librispeech: no such folder"):
        build("librispeech", 1, 1, 0)
    hub_files.write_both(corpora, train=2, test=1)
    hub_files.write_mls(corpora, "test", [hub_files.mls_row(0, transcript="")])
    with pytest.raises(InputError, match=r"no usable row for test.*empty transcript"):
        build("mls_german", 1, 1, 0)
    next((corpora / "librispeech/all/test.clean").glob("*")).unlink()
    with pytest.raises(AssetError, match=r"no Parquet file of split test\.clean"):
        build("librispeech", 1, 1, 0)
    damaged = corpora / "librispeech/all/test.clean/0000.parquet"
    damaged.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(AssetError, match="librispeech"):
        build("librispeech", 1, 1, 0)
    assert not [*(corpora.parent / "cache/speech").glob("[lm]*")]


def test_without_network_one_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("KAPPA_CORPORA", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="openslr/librispeech_asr") as error:
        build("librispeech", 1, 1, 0)
    assert "local folder" in error.value.remedy
