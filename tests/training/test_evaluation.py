import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.speech.transcripts import normalise, word_error_rate
from kappa_lib.training.evaluation import (
    TEXT_WINDOW,
    Forgetting,
    batches,
    general_text,
)


def test_wer_of_a_hand_computed_case():
    references = ["the cat sat on the mat", "hello"]
    hypotheses = ["the cat sit on mat", "hello there you"]
    # one substitution, one deletion, two insertions over seven words
    assert word_error_rate(references, hypotheses, "de") == pytest.approx(4 / 7)


def test_wer_is_over_the_set_and_may_exceed_one():
    assert word_error_rate(["ja"], ["nein nein nein"], "de") == pytest.approx(3.0)
    assert word_error_rate(["a b c", "d"], ["a b c", ""], "de") == pytest.approx(1 / 4)


def test_english_and_german_have_their_own_normaliser():
    assert normalise("Three colours, don't!", "en") == "3 colors do not"
    assert normalise("Drei Farben, weiße Stühle!", "de") == "drei farben weiße stühle"
    assert word_error_rate(["three colours"], ["3 colors"], "en") == 0


@pytest.mark.parametrize("reference", ["...", "hmm", "(cough)", " "])
def test_wer_of_an_empty_reference_is_refused(reference):
    with pytest.raises(InputError, match="empty after normalisation"):
        word_error_rate(["hello", reference], ["hello", "x"], "en")


def test_wer_of_no_utterances_is_refused():
    with pytest.raises(InputError, match="0 references"):
        word_error_rate([], [], "en")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_batches_cover_every_item_once(lengths, size):
    found = list(batches(lengths, size))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert max(map(len, found)) <= size


def test_text_loss_equals_a_sum_written_out_by_hand():
    llm, tokenizer = tiny.llama(), tiny.tokenizer()
    measured, kl = Forgetting(llm, tokenizer, tokens=300).measure(llm)
    windows = general_text(tokenizer, 300)
    assert windows.shape == (2, TEXT_WINDOW + 1)
    total = 0.0
    for window in windows:
        with torch.no_grad():
            logits = llm(window[None]).logits[0].double()
        for place in range(TEXT_WINDOW):  # position i predicts token i + 1
            row = logits[place]
            total += math.log(sum(row.exp().tolist())) - row[window[place + 1]].item()
    assert measured == pytest.approx(total / (2 * TEXT_WINDOW), abs=1e-5)
    assert kl == pytest.approx(0, abs=1e-6)


def test_kl_equals_a_sum_over_the_vocabulary():
    llm, tokenizer = tiny.llama(), tiny.tokenizer()
    forgetting = Forgetting(llm, tokenizer, tokens=TEXT_WINDOW)
    other = tiny.llama(seed=1)
    _, kl = forgetting.measure(other)
    window = forgetting.windows[0]
    with torch.no_grad():
        p, q = (m(window[None, :-1]).logits[0].double().softmax(-1) for m in (llm, other))
    expected = (p * (p / q).log()).sum(-1).mean().item()
    assert kl == pytest.approx(expected, rel=1e-4)
    assert kl > 0


def test_asking_for_more_general_text_than_there_is():
    with pytest.raises(InputError, match="text_tokens"):
        general_text(tiny.tokenizer(), 10**8)
