"""What a run is judged by: word error rate, held-out loss, and forgotten general text."""

import pydoc_data.topics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kappa_lib import distributed
from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.speech.features import TestSet
from kappa_lib.speech.transcripts import word_error_rate
from kappa_lib.training.model import SpeechLLM
from kappa_lib.training.precision import autocast

EVAL_BATCH = 48
HELDOUT_ITEMS = 16  # a test set's first items; the loss is smooth, so few will do
TEXT_WINDOW = 256


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, so that little of a batch is padding."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def transcribe_all(model: SpeechLLM, test: TestSet, max_new_tokens: int) -> list[dict]:
    """Transcribe a whole test set; several processes share its batches.

    Returns:
        A row an utterance: ``corpus``, ``id``, ``reference``, ``hypothesis``, ``capped``.
    """
    groups = list(batches([len(f) for f in test.features], EVAL_BATCH))
    found: dict[int, dict] = {}
    for number in distributed.shard(len(groups)):
        group = groups[number]
        answers = model.transcribe([test.features[i] for i in group], max_new_tokens)
        for i, (text, capped) in zip(group, answers, strict=True):
            found[i] = {
                "corpus": test.corpus,
                "id": test.ids[i],
                "reference": test.texts[i],
                "hypothesis": text,
                "capped": capped,
            }
    return distributed.all_gather(found)


@torch.inference_mode()
def heldout_loss(model: SpeechLLM, tests: Sequence[TestSet]) -> float:
    """Token-weighted cross-entropy of the first 16 transcripts of every test set, in nats."""
    total = count = 0.0
    for test in tests:
        loss, tokens = model.loss(test.features[:HELDOUT_ITEMS], test.texts[:HELDOUT_ITEMS])
        total, count = total + loss.item() * tokens, count + tokens
    return total / count


def general_text(tokenizer: PreTrainedTokenizerBase, tokens: int) -> Tensor:
    """Fixed English prose that every Python carries: the language reference's help topics.

    Returns:
        (windows, TEXT_WINDOW + 1) token ids whose predictions number ``tokens`` (rounded up).
    """
    text = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    windows = -(-tokens // TEXT_WINDOW)
    needed = windows * (TEXT_WINDOW + 1)
    ids = tokenizer(text[: 8 * needed], add_special_tokens=False)["input_ids"]
    if len(ids) < needed:
        raise InputError(f"text_tokens={tokens} asks for more text than there is", "lower it")
    return torch.tensor(ids[:needed]).reshape(windows, TEXT_WINDOW + 1)


def text_fingerprint(windows: Tensor) -> str:
    """Hash of the general text as tokens; it differs between Python versions."""
    return fingerprint(windows.tolist())


@torch.inference_mode()
def log_probabilities(llm: PreTrainedModel, window: Tensor) -> Tensor:
    """(length,) ids → (length - 1, vocabulary) fp32 log-probabilities of each next token."""
    with autocast(llm):
        logits = llm(input_ids=window[None, :-1].to(llm.device), use_cache=False).logits[0]
    return functional.log_softmax(logits.float(), dim=-1)


class Forgetting:
    """General-text cross-entropy and KL divergence from the model as it was at construction.

    The base model's log-probabilities are kept on the CPU: positions × vocabulary × 4 bytes,
    200 MB for 1,024 positions of the default model. Several processes share the positions.
    """

    def __init__(
        self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int
    ) -> None:
        self.windows = general_text(tokenizer, tokens)
        mine = distributed.shard(len(self.windows))
        self.base = {i: log_probabilities(llm, self.windows[i]).cpu() for i in mine}

    def measure(self, llm: PreTrainedModel) -> tuple[float, float]:
        """Mean cross-entropy and mean KL(base ‖ now), both in nats a token."""
        found = {}
        for number, base in self.base.items():
            window = self.windows[number]
            now = log_probabilities(llm, window).cpu()
            loss = functional.nll_loss(now, window[1:]).item()
            divergence = functional.kl_div(now, base, reduction="batchmean", log_target=True)
            found[number] = (loss, divergence.item())
        losses, divergences = zip(*distributed.all_gather(found), strict=True)
        return sum(losses) / len(losses), sum(divergences) / len(divergences)


def evaluate(
    model: SpeechLLM, tests: Sequence[TestSet], forgetting: Forgetting, max_new_tokens: int
) -> tuple[dict, list[dict]]:
    """Everything that is measured at one evaluation.

    Returns:
        The measured fields of a ``metrics.jsonl`` line, and the transcripts behind them.
    """
    rows = {t.corpus: transcribe_all(model, t, max_new_tokens) for t in tests}
    languages = {t.corpus: t.language for t in tests}
    flat = [row for of_corpus in rows.values() for row in of_corpus]
    text_loss, kl = forgetting.measure(model.llm)
    metrics = {
        "heldout_loss": heldout_loss(model, tests),
        "wer": {
            corpus: word_error_rate(
                [r["reference"] for r in of_corpus],
                [r["hypothesis"] for r in of_corpus],
                languages[corpus],
            )
            for corpus, of_corpus in rows.items()
        },
        "text_loss": text_loss,
        "kl": kl,
        "capped": sum(r["capped"] for r in flat) / len(flat),
        "empty": sum(not r["hypothesis"] for r in flat) / len(flat),
    }
    return metrics, flat
