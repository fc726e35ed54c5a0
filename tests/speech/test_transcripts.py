"""What counts as the same word in a language, and that committed rates stay as they are."""

import unicodedata
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper_normalizer.basic import BasicTextNormalizer

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.speech.transcripts import (
    UNSPACED,
    measure,
    normalise,
    normaliser,
    sentence_key,
    word_error_rate,
    word_errors,
)
from kappa_lib.training.checkpoints import read_metrics

RUNS = sorted(path.parent for path in paths.REFERENCE.glob("*/runs/*/transcripts"))


def test_committed_transcripts_have_their_committed_rates():
    compared = 0
    for run in RUNS:
        metrics = {row["step"]: row["wer"] for row in read_metrics(run)}
        for path in (run / "transcripts").glob("step*.json"):
            by_corpus = defaultdict(list)
            for row in read_json(path):
                by_corpus[row["corpus"]].append((row["reference"], row["hypothesis"]))
            for corpus, pairs in by_corpus.items():
                rate = word_error_rate(*zip(*pairs, strict=True), profiles.CORPORA[corpus])
                assert rate == metrics[int(path.stem.removeprefix("step"))][corpus], (path, corpus)
                compared += 1
    assert compared > 150


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "rate"),
    [
        ("en", "It’s fine, I don’t think we’ll go", "it's fine i don't think we'll go", 0),
        ("en", "wait… what", "wait what", 0),
        ("en", "He said ‘re-do it’", "he said re-do it", 0),
        ("uz", "o‘zbek", "o'zbek", 0),
        ("de", "Geht’s so?", "geht's so", 0),
        ("de", "Wort\u00adtrennung", "worttrennung", 0),
        ("fr", "l’été", unicodedata.normalize("NFD", "l'été"), 0),
        ("uk", "п’ять", "пʼять", 0),
        ("hi", "मैं हिंदी सीख रहा हूँ", "मैं हिंदी सीखा रही हूँ", 2 / 5),
        ("ta", "நான் தமிழ்", "நான் தமிழ", 1 / 2),
        ("ar", "مُحَمَّدٌ رَسُول", "محمد رسول", 0),
        ("ar", "كتاب جديد", "كتاب جدید", 1 / 2),
        ("he", "שָׁלוֹם", "שלום", 0),
        ("tr", "İstanbul ISPARTA", "istanbul ısparta", 0),
        ("tr", "ışık", "isik", 1),
        ("de", "İstanbul", "istanbul", 0),
        ("el", "ΟΔΟΣ", "οδος", 0),
        ("zh", "我爱北京天安门。", "我爱北京天安", 1 / 7),
        ("ja", "東京 タワー", "東京タワ", 1 / 5),
        ("th", "สวัสดี", "สวัดี", 1 / 4),
        ("km", "ខ្ញុំ", "ខ្ញុំ", 0),
        ("ko", "안녕 하세요", "안녕 하세오", 1 / 2),
    ],
)
def test_errors_are_those_that_a_speaker_counts(language, reference, hypothesis, rate):
    assert word_error_rate([reference], [hypothesis], language) == rate
    wrong, units = word_errors(reference, hypothesis, language)
    assert wrong / units == rate


@pytest.mark.parametrize("language", ["zh", "ja", "yue", "th", "lo", "km", "my"])
def test_a_language_without_spaces_is_measured_by_its_letters(language):
    assert measure(language) == "CER"
    assert "character error rate" in normaliser(language)
    assert len(normalise("字典 ก็ ខ្ញុំ", language).split()) >= 4


def test_normalisers_and_measures_are_named():
    assert [normaliser(x) for x in ("en", "de")] == ["Whisper English", "Whisper basic"]
    assert "marks" in normaliser("hi")
    assert {measure(x) for x in ("en", "de", "hi", "ko")} == {"WER"}
    with pytest.raises(InputError, match="German"):
        normalise("gut", "German")


@given(st.text(st.characters(categories=["Ll", "Lu", "Zs", "Po", "Nd"], max_codepoint=0x24F)))
def test_german_is_as_whispers_rule_has_it(text):
    if not set(text) & set("İ`´'\u0149"):
        expected = BasicTextNormalizer()(text).strip()
        assert normalise(text, "de") == (expected if any(map(str.isalnum, expected)) else "")


@given(st.text(), st.sampled_from(["en", "de", "hi", "tr", "ar", *sorted(UNSPACED)[:3]]))
def test_no_text_is_too_strange(text, language):
    words = normalise(text, language)
    assert words == words.strip()
    assert not words or any(c.isalnum() for c in words)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Don’t PRESS,  one!", "dont press one"),
        ("don't", "don’t"),
        ("Äpfel", unicodedata.normalize("NFD", "äpfel")),
        ("weiße", "weisse"),
        ("مُحَمَّد", "محمد"),
        ("...", ""),
    ],
)
def test_the_same_sentence_has_one_key(one, other):
    assert sentence_key(one) == sentence_key(other)


def test_vowel_signs_make_another_sentence():
    assert sentence_key("रहा") != sentence_key("रही")
