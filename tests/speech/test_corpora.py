"""Corpora: split by sentence, deterministic, kept, refused where they cannot be had; prompts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib import paths, profiles
from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import read_json
from kappa_lib.speech import audio, corpora, recorded
from kappa_lib.speech.transcripts import normalise, sentence_key
from kappa_lib.text import bundled_text
from kappa_lib.weights import assets

counts = st.integers(0, 60)
FIXED = [corpus for corpus in corpora.CORPORA if corpus != "en_actors"]  # need no file to draw
names = st.sampled_from(FIXED)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that already has the assets: the real ones, linked."""
    folders = [assets.asset(name).get() for name in ("espeak-ng", "svox-pico")]
    try:
        folders.append(assets.asset("asterisk-core-sounds-en-g722").get())
    except AssetError as error:
        pytest.skip(f"the human recordings cannot be had here: {error.what}")
    (tmp_path / "assets").mkdir()
    for folder in folders:
        (tmp_path / "assets" / folder.name).symlink_to(folder)
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    return tmp_path


def build(corpus, train, test, seed):
    return recorded.build(corpus, corpora.SOURCES[corpus], train, test, seed)[0]


def texts(utterances) -> list[str]:
    return [utterance.text for utterance in utterances]


@settings(deadline=None, max_examples=25)
@given(names, counts, counts, st.integers(0, 2**32))
def test_no_test_sentence_is_trained_on(corpus, train, test, seed):
    drawn = corpora.split(corpus, train, test, seed)
    assert (len(drawn["train"]), len(drawn["test"])) == (train, test)
    # As the word error rate compares texts, not as the split does.
    trained, tested = (
        {normalise(t, corpus[:2]) for t in texts(p)} for p in (drawn["train"], drawn["test"])
    )
    assert not trained & tested
    assert len(tested) == test
    assert len({u.id for u in (*drawn["train"], *drawn["test"])}) == train + test
    # The test part does not depend on the sizes.
    assert corpora.split(corpus, 0, test // 2, seed)["test"] == drawn["test"][: test // 2]


def test_the_committed_splits_are_drawn_again():
    for profile in ("laptop", "cause"):
        committed = read_json(paths.REFERENCE / profile / "split.json")
        seed = profiles.load(profile).seed
        for corpus, used in committed["used"].items():
            drawn = corpora.split(corpus, used.get("train", 0), used.get("test", 0), seed)
            test = {row.id: row.text for row in drawn["test"]}
            assert test == committed["test"].get(corpus, {})
            assert {r.id: r.text for r in drawn["train"]}.items() <= committed["train"].items()


@pytest.fixture
def actors():
    """The clips of ``en_actors``."""
    try:
        return corpora.prompts("en_actors")
    except AssetError as error:
        pytest.skip(f"the game's file cannot be had here: {error.what}")


def test_actors_who_are_tested_are_not_trained_on(actors):
    assert len(actors) > 4000
    assert len({row.speaker for row in actors}) == 30
    tested = []
    for seed in (0, 1):
        drawn = corpora.split("en_actors", 5000, 200, seed)
        spoken = [{row.speaker for row in part} for part in (drawn["train"], drawn["test"])]
        assert not spoken[0] & spoken[1]
        assert "joe" in spoken[0]
        assert len(spoken[1]) > 3
        keys = [
            {sentence_key(row.text) for row in part} for part in (drawn["train"], drawn["test"])
        ]
        assert not keys[0] & keys[1]
        tested.append(spoken[1])
        assert corpora.split("en_actors", 0, 60, seed)["test"] == drawn["test"][:60]
    assert tested[0] != tested[1]


def test_actors_are_heard_at_16_khz_for_as_long_as_said(actors, tmp_path, monkeypatch):
    folder = assets.asset("flight-of-the-amazon-queen").get()
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / folder.name).symlink_to(folder)
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    seconds = {row.id: row.seconds for row in actors}
    for part in build("en_actors", 3, 3, 0).values():
        for row in part:
            assert audio.decode(row).size == pytest.approx(
                audio.RATE * seconds[row["id"]], rel=0.05
            )


@pytest.mark.parametrize("corpus", ["de", "en"])
def test_every_speaker_and_word_is_heard_in_training(corpus):
    drawn = corpora.split(corpus, 400, 48, 0)
    for part in (drawn["train"], drawn["test"]):
        assert {u.speaker for u in part} == set(corpora.SPEAKERS["espeak"][corpus])
    words = {word for slot in corpora.SLOTS[corpus] for word in slot}
    assert {word for text in texts(drawn["train"]) for word in text.split()} == words
    others = [set(texts(corpora.split(corpus, 0, 40, seed)["test"])) for seed in range(4)]
    assert max(len(a & b) for i, a in enumerate(others) for b in others[:i]) <= 2


@pytest.mark.parametrize("corpus", ["de_open", "en_open"])
def test_open_sentences_run_out_and_are_said_again_by_another_voice(corpus):
    there_are = len(bundled_text(corpus).splitlines())
    drawn = corpora.split(corpus, 2 * (there_are - 100), 100, 0)
    half = len(drawn["train"]) // 2
    once, again = drawn["train"][:half], drawn["train"][half:]
    assert texts(once) == texts(again)
    assert {*texts(once)} | {*texts(drawn["test"])} == {*bundled_text(corpus).splitlines()}
    voices = [(a.voice, b.voice) for a, b in zip(once, again, strict=True)]
    assert sum(a == b for a, b in voices) < 0.05 * half


@pytest.mark.parametrize(
    "request_", [("fr", 1, 1, 0), ("de", 99_999, 2, 0), ("en_human", 1, 1000, 0)]
)
def test_what_cannot_be_drawn_is_refused(request_):
    with pytest.raises(InputError, match=f"corpus '?{request_[0]}") as caught:
        corpora.split(*request_)
    assert caught.value.remedy


@pytest.mark.parametrize("corpus", FIXED)
def test_built_rows_decode_and_are_the_same_bytes_when_built_again(
    cache, corpus, monkeypatch, said
):
    built = build(corpus, 6, 4, 1)
    drawn = corpora.split(corpus, 6, 4, 1)
    for part in audio.PARTS:
        assert built[part].features == audio.FEATURES
        assert built[part]["text"][:] == texts(drawn[part])
        assert all(audio.decode(item).size > audio.RATE / 4 for item in built[part])
    before = [item["audio"]["bytes"] for item in built["train"]]

    monkeypatch.setenv("KAPPA_HOME", str(cache / "again"))
    (cache / "again").mkdir()
    (cache / "again/assets").symlink_to(cache / "assets")
    again = build(corpus, 6, 4, 1)
    assert [item["audio"]["bytes"] for item in again["train"]] == before
    assert len(said) == 2


def test_the_second_build_is_offline_and_makes_nothing(cache, monkeypatch, said):
    build("en", 2, 2, 0)
    (cache / "assets/espeak-ng").unlink()
    monkeypatch.setenv("KAPPA_OFFLINE", "1")
    said.clear()
    assert len(build("en", 2, 2, 0)["test"]) == 2
    assert said == []


def test_prompts_are_speech_with_words_and_test_prompts_sentences_of_moderate_length():
    prompts = corpora.prompts()
    assert len(prompts) > 500
    assert max(p.seconds for p in prompts) <= corpora.LONGEST
    files = {p.recording.removesuffix(".g722") for p in prompts}
    assert not files & {"beep", "beeperr", "ascending-2tone", "tt-monkeys", "silence/1"}
    assert {"hello-world", "digits/7", "letters/at", "vm-intro"} <= files
    assert not [p for p in prompts if set(p.text) & set("[]<>()*#@")]
    drawn = corpora.split("en_human", 1000, 64, 0)
    assert len(drawn["train"]) + len(drawn["test"]) > 500
    for utterance in drawn["test"]:
        assert len(utterance.text.split()) >= corpora.TEST_WORDS
        assert utterance.seconds <= corpora.TEST_SECONDS


def test_a_recording_decodes_to_the_length_its_bytes_imply(cache):
    prompt = next(p for p in corpora.prompts() if p.recording == "hello-world.g722")
    speech = corpora.decode_g722(
        assets.asset("asterisk-core-sounds-en-g722").get() / prompt.recording
    )
    assert speech.dtype == np.float32
    assert speech.size / audio.RATE == pytest.approx(prompt.seconds, abs=0.01)
    assert 0.05 < np.abs(speech).max() <= 1.0
