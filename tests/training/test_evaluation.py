import json

import pytest
import tiny
import torch
from torch.nn import functional

from kappa_lib.errors import InputError
from kappa_lib.speech.features import Utterances
from kappa_lib.speech.transcripts import word_error_rate
from kappa_lib.training import evaluation
from kappa_lib.training.evaluation import Forgetting, evaluate, text_windows
from kappa_lib.training.model import Adaptor, SpeechLLM

WINDOW = tiny.WINDOW


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch):
    monkeypatch.setattr(evaluation, "WINDOW", WINDOW)


@pytest.mark.parametrize(
    ("references", "hypotheses", "rate"),
    [
        # one substitution, one deletion, two insertions over seven words
        (["the cat sat on the mat", "hello"], ["the cat sit on mat", "hello there you"], 4 / 7),
        (["ja"], ["nein nein nein"], 3.0),
        (["a b c", "d"], ["a b c", ""], 1 / 4),
    ],
)
def test_wer_is_over_the_set_and_may_exceed_one(references, hypotheses, rate):
    assert word_error_rate(references, hypotheses, "de") == pytest.approx(rate)


@pytest.mark.parametrize("reference", ["...", "hmm", "(cough)", " "])
def test_wer_of_an_empty_reference_is_refused(reference):
    with pytest.raises(InputError, match="empty after normalisation"):
        word_error_rate(["hello", reference], ["hello", "x"], "en")


def perturbed():
    """The tiny model with another second layer; embeddings and output layer are the same."""
    other = tiny.llama()
    other.model.layers[1].load_state_dict(tiny.llama(seed=1).model.layers[1].state_dict())
    return other


def test_text_loss_equals_a_sum_written_out_by_hand():
    llm, tokenizer = tiny.llama(), tiny.tokenizer()
    measured = Forgetting(llm, tokenizer, tokens=WINDOW + 1).measure(llm)["text"]
    for kind, windows in text_windows(tokenizer, WINDOW + 1).items():
        total = 0.0
        for window in windows:
            with torch.no_grad():
                logits = llm(window[None]).logits[0].double()
            for place in range(WINDOW):  # position i predicts token i + 1
                row = logits[place]
                total += row.logsumexp(0).item() - row[window[place + 1]].item()
        assert measured[kind]["tokens"] == 2 * WINDOW
        assert measured[kind]["loss"] == pytest.approx(total / (2 * WINDOW), abs=1e-5)
        assert measured[kind]["kl"] == 0


def test_kl_equals_a_sum_over_the_vocabulary():
    llm, tokenizer = tiny.llama(), tiny.tokenizer()
    forgetting = Forgetting(llm, tokenizer, tokens=WINDOW)
    other = perturbed()
    measured = forgetting.measure(other)
    assert list(measured["text"]) == ["english", "german", "technical"]
    for kind, found in measured["text"].items():
        window = forgetting.windows[kind][0]
        with torch.no_grad():
            p, q = (m(window[None, :-1]).logits[0].double().softmax(-1) for m in (llm, other))
            # The base model's log-probabilities come back bit for bit.
            before, now = (m(window[None, :-1]).logits[0].log_softmax(-1) for m in (llm, other))
        expected = (p * (p / q).log()).sum(-1).mean().item()
        assert found["kl"] == pytest.approx(expected, rel=1e-3)
        assert found["kl"] > 0
        again = functional.kl_div(now, before, reduction="batchmean", log_target=True)
        assert found["kl"] == again.item()


def test_a_model_that_changes_its_logits_afterwards_is_refused():
    llm = tiny.llama()
    forward = llm.forward

    def capped(*args, **options):
        answer = forward(*args, **options)
        answer.logits = 30 * torch.tanh(answer.logits / 30)
        return answer

    llm.forward = capped
    with pytest.raises(InputError, match="after the output layer"):
        Forgetting(llm, tiny.tokenizer(), tokens=1)


def test_an_evaluation_keeps_every_kind_of_text_and_every_corpus():
    llm, tokenizer = tiny.llama(), tiny.tokenizer()
    torch.manual_seed(0)
    model = SpeechLLM(llm, tokenizer, Adaptor(8, 64, scale=0.1))
    tests = [
        Utterances(c, c, ["a", "b"], ["eins zwei", "drei"], [torch.randn(n, 8) for n in (6, 9)])
        for c in ("de", "en")
    ]
    forgetting = Forgetting(llm, tokenizer, tokens=WINDOW + 1)
    metrics, rows = evaluate(model, tests, forgetting, max_new_tokens=2).values()
    assert json.loads(json.dumps(metrics)) == metrics
    text = metrics["text"]
    assert metrics["text_loss"] == pytest.approx(sum(t["loss"] for t in text.values()) / 3)
    assert metrics["kl"] == pytest.approx(sum(t["kl"] for t in text.values()) / 3)
    for kind in text.values():
        assert kind["tokens"] == 2 * WINDOW == WINDOW * len(kind["window_kl"])
        assert len(kind["window_loss"]) == 2
        assert kind["loss"] == pytest.approx(sum(kind["window_loss"]) / 2, abs=1e-6)
    counts = {t.corpus: sum(len(model.targets(x)) for x in t.texts) for t in tests}
    weighted = sum(metrics["heldout"][corpus] * n for corpus, n in counts.items())
    assert metrics["heldout_loss"] == pytest.approx(weighted / sum(counts.values()))
    for test in tests:
        alone, _ = model(test.features, test.texts)
        assert metrics["heldout"][test.corpus] == pytest.approx(alone.item())
    assert len(rows) == 4
