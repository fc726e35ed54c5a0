"""The sentence tables: ten words in five slots, every sentence different."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.speech import matrix_sentences

LANGUAGES = sorted(matrix_sentences.SLOTS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_slots_of_ten_different_words(language):
    slots = matrix_sentences.SLOTS[language]
    assert [len(set(words)) for words in slots] == [10] * 5
    assert len({word for words in slots for word in words}) == 50


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_sentences_differ(language):
    sentences = {matrix_sentences.sentence(language, i) for i in range(matrix_sentences.COUNT)}
    assert len(sentences) == matrix_sentences.COUNT


@given(st.sampled_from(LANGUAGES), st.integers(0, 99_999))
def test_the_digits_of_the_number_choose_the_words(language, index):
    words = matrix_sentences.sentence(language, index).split()
    slots = matrix_sentences.SLOTS[language]
    digits = [slot.index(word) for slot, word in zip(slots, words, strict=True)]
    assert sum(d * 10**p for d, p in zip(digits, (4, 3, 2, 1, 0), strict=True)) == index


def test_german_adjectives_agree_with_a_plural_without_article():
    names, verbs, _, adjectives, nouns = matrix_sentences.SLOTS["de"]
    assert all(word.endswith("e") and word.islower() for word in adjectives)
    assert all(word[0].isupper() for word in (*names, *nouns))
    assert all(word.endswith("t") for word in verbs)


@pytest.mark.parametrize(("language", "index"), [("fr", 0), ("en", -1), ("en", 100_000)])
def test_what_does_not_exist_is_refused(language, index):
    with pytest.raises(InputError):
        matrix_sentences.sentence(language, index)


@given(st.integers(0, 1 << 16))
def test_every_variation_of_a_voice_is_in_range(variation):
    voice = matrix_sentences.voice("de+m1", variation)
    assert matrix_sentences.RATES[0] <= voice.rate <= matrix_sentences.RATES[1]
    assert matrix_sentences.PITCHES[0] <= voice.pitch <= matrix_sentences.PITCHES[1]
