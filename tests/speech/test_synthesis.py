"""Synthesis: ten words in five slots, the same bytes whatever was said before, refusals."""

import platform
import shutil
import time
from hashlib import sha256
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_lib.errors import AssetError, InputError, KappaError
from kappa_lib.speech import corpora
from kappa_lib.speech.audio import RATE
from kappa_lib.speech.corpora import Voice
from kappa_lib.weights import assets

LANGUAGES = sorted(corpora.SLOTS)
# f2 adds breath noise, the others are voiced only.
UTTERANCES = [
    ("Nora needs two red chairs", Voice("espeak", "en-us+m1", 150, 45)),
    ("Klara sucht neun alte Uhren", Voice("espeak", "de+f2", 185, 55)),
    ("Martin keeps five old lamps", Voice("espeak", "en-gb-x-rp+f3", 170, 60)),
]


PICO = [
    ("Such was his own account.", Voice("pico", "en-US", 90, 130)),
    ("Tu, was du nicht lassen kannst!", Voice("pico", "de-DE", 120, 75)),
    ("Those clouds look alarming.", Voice("pico", "en-GB", 100, 100)),
]


@pytest.mark.parametrize("utterances", [UTTERANCES, PICO], ids=["espeak", "pico"])
def test_same_text_and_voice_give_the_same_audible_samples_in_any_order(utterances):
    forward = [corpora.speak(*utterance) for utterance in utterances]
    time.sleep(1.1)  # the breath noise is seeded from the clock's second unless we seed it
    backward = [corpora.speak(*utterance) for utterance in utterances[::-1]]
    for a, b in zip(forward, backward[::-1], strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32
        assert 1.0 < a.size / RATE < 3.0
        assert 0.2 < np.abs(a).max() <= 1.0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another library, other roundings")
def test_samples_are_those_of_the_committed_runs():
    # Of the worker that served many utterances, each in a fork of its own, at v0.1.0.
    spoken = [corpora.speak(*UTTERANCES[0]), corpora.speak(PICO[1][0], PICO[1][1])]
    assert [sha256(s.tobytes()).hexdigest()[:16] for s in spoken] == [
        "bab3acd5fa63bf45",
        "ecbcce5abac69852",
    ]


@pytest.mark.parametrize("speaker", [("espeak", "de+m3"), ("pico", "de-DE")])
def test_a_higher_rate_is_shorter_and_pitch_and_voice_are_heard(speaker):
    voices = [Voice(*speaker, *how) for how in ((90, 50), (150, 50), (150, 80))]
    voices.append(Voice("espeak", "de+f2", 150, 50))
    slow, fast, high, other = (corpora.speak(UTTERANCES[1][0], voice) for voice in voices)
    assert slow.size > 1.3 * fast.size
    assert not np.array_equal(high, fast)
    assert not np.array_equal(other, fast)


def test_a_library_that_cannot_be_loaded_is_an_asset_error(tmp_path, monkeypatch):
    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"not a library")
    _, folder = assets.synthesiser("espeak")
    monkeypatch.setattr(assets, "synthesiser", lambda _: (broken, folder))
    with pytest.raises(AssetError, match="synthesiser cannot run"):
        corpora.speak(*UTTERANCES[0])


def test_an_engine_that_dies_is_no_fault_of_the_text_and_no_missing_asset(tmp_path, monkeypatch):
    library, folder = assets.synthesiser("pico")
    shutil.copytree(folder, tmp_path / "pico")
    for path in (tmp_path / "pico" / "lang").iterdir():
        path.write_bytes(b"not a language")
    monkeypatch.setattr(assets, "synthesiser", lambda _: (library, tmp_path / "pico"))
    with pytest.raises(KappaError, match="'hello': the speech synthesiser crashed") as found:
        corpora.speak("hello", Voice("pico", "en-GB", 100, 100))
    assert not isinstance(found.value, AssetError | InputError)


def test_a_text_that_takes_too_long_is_named(monkeypatch):
    monkeypatch.setattr(corpora, "PATIENCE", 0.001)
    with pytest.raises(KappaError, match=r"'hello': the speech synthesiser .* timed out") as found:
        corpora.speak("hello", Voice("espeak", "en-us+m1", 165, 50))
    assert not isinstance(found.value, AssetError | InputError)


def test_every_voice_has_a_variant_that_espeak_knows():
    """It would replace another one by its plain voice, in silence."""
    _, folder = assets.synthesiser("espeak")
    known = {path.name for path in (folder / "espeak-ng-data" / "voices" / "!v").iterdir()}
    for name in chain(*corpora.SPEAKERS["espeak"].values()):
        assert not (variant := name.partition("+")[2]) or variant in known


def test_an_unknown_voice_is_refused():
    with pytest.raises(KappaError, match="'hello': the speech synthesiser crashed"):
        corpora.speak("hello", Voice("espeak", "xx", 165, 50))


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_slots_of_ten_different_words(language):
    slots = corpora.SLOTS[language]
    assert [len(words) for words in slots] == [10] * 5
    assert len({word for words in slots for word in words}) == 50


@given(st.sampled_from(LANGUAGES), st.integers(0, 99_999))
def test_the_digits_of_the_number_choose_the_words(language, index):
    words = corpora.sentence(language, index).split()
    slots = corpora.SLOTS[language]
    digits = [slot.index(word) for slot, word in zip(slots, words, strict=True)]
    assert sum(d * 10**p for d, p in zip(digits, (4, 3, 2, 1, 0), strict=True)) == index


@given(st.sampled_from(["espeak", "pico"]), st.integers(0, 1 << 16))
def test_every_variation_of_a_voice_is_in_range(engine, variation):
    voice = corpora.voice(engine, "anyone", variation)
    rates, pitches = corpora.RANGES[engine]
    assert rates[0] <= voice.rate <= rates[1]
    assert pitches[0] <= voice.pitch <= pitches[1]
