"""What a run is judged by: word error rate, held-out loss, and forgotten general text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.speech.features import Utterances
from kappa_lib.speech.transcripts import word_error_rate
from kappa_lib.text import bundled_text, text_metadata
from kappa_lib.training.model import SpeechLLM, autocast

EVAL_BATCH = 48
HELDOUT_ITEMS = 16  # a test set's first items; the loss is smooth, so few will do
# The general texts on which forgetting is measured, each an excerpt of about 24,000 characters;
# ``data/texts/texts.json`` names source, licence and SHA-256.
KINDS = ("english", "german", "technical")
WINDOW = 256  # predictions a window of them
DIGITS = 6  # of the values that are kept for every window, in nats


def transcribe_all(model: SpeechLLM, test: Utterances, max_new_tokens: int) -> list[dict]:
    """A whole test set: ``corpus``, ``id``, ``reference``, ``hypothesis``, ``capped`` of each."""
    # Of similar length, so that little of a batch is padding.
    order = sorted(range(len(test.ids)), key=lambda i: len(test.features[i]))
    found: dict[int, dict] = {}
    for start in range(0, len(order), EVAL_BATCH):
        group = order[start : start + EVAL_BATCH]
        answers = model.transcribe([test.features[i] for i in group], max_new_tokens)
        for i, (text, capped) in zip(group, answers, strict=True):
            found[i] = {
                "corpus": test.corpus,
                "id": test.ids[i],
                "reference": test.texts[i],
                "hypothesis": text,
                "capped": capped,
            }
    return [found[i] for i in range(len(test.ids))]


@torch.inference_mode()
def heldout_loss(model: SpeechLLM, tests: Sequence[Utterances]) -> dict[str, Any]:
    """Cross-entropy of the first 16 transcripts of every test set, in nats per token: over the
    tokens of all as ``heldout_loss``, over those of each corpus as ``heldout``."""
    total = count = 0.0
    found = {}
    for test in tests:
        loss, tokens = model(test.features[:HELDOUT_ITEMS], test.texts[:HELDOUT_ITEMS])
        found[test.corpus] = loss.item()
        total, count = total + loss.item() * tokens, count + tokens
    return {"heldout_loss": total / count, "heldout": found}


def text_windows(tokenizer: PreTrainedTokenizerBase, tokens: int) -> dict[str, Tensor]:
    """The beginning of each general text in windows that are read on their own.

    Returns:
        Kind → (windows, 257) token ids; the last id of a window is predicted only. ``tokens``, the
        predictions for each kind, are rounded up to whole windows of 256.

    Raises:
        InputError: a text has fewer tokens.
    """
    count = -(-tokens // WINDOW)
    found = {}
    for kind in KINDS:
        ids = tokenizer(bundled_text(kind), add_special_tokens=False)["input_ids"]
        if len(ids) < count * (WINDOW + 1):
            most = len(ids) // (WINDOW + 1) * WINDOW
            what = f"text_tokens={tokens} asks for more {kind} text than there is"
            raise InputError(what, f"at most {most} with this tokenizer")
        found[kind] = torch.tensor(ids[: count * (WINDOW + 1)]).reshape(count, WINDOW + 1)
    return found


def texts_identity(windows: dict[str, Tensor]) -> str:
    """Hash of what :func:`text_windows` gave: the texts' hashes and their token ids."""
    hashes = {kind: text_metadata()[kind]["sha256"] for kind in KINDS}
    return fingerprint([hashes, {kind: ids.tolist() for kind, ids in windows.items()}])


class Forgetting:
    """Cross-entropy and KL divergence from the model at construction, on three kinds of text.

    Of the base model the vectors before its output layer are kept, on the CPU in the model's
    precision: 28 MB for 12,288 positions of the default model, whose log-probabilities would be
    2.4 GB. No run trains the output layer, so its product with them gives the base model's
    log-probabilities again, bit for bit.

    Raises:
        InputError: a text is too short, or the model changes its logits after its output layer.
    """

    def __init__(
        self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int
    ) -> None:
        self.windows = text_windows(tokenizer, tokens)
        self._base = {
            kind: [_read(llm, window).cpu() for window in windows]
            for kind, windows in self.windows.items()
        }
        first = self.windows[KINDS[0]][0]
        with torch.inference_mode(), autocast(llm):
            ids = first[None, :-1].to(llm.device)
            logits = llm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(dim=-1)
        if not torch.equal(_log_probabilities(llm, _read(llm, first)), logits):
            what = f"{type(llm).__name__} changes its logits after the output layer"
            remedy = "forgetting cannot be measured on it; use a model without soft-capping"
            raise InputError(what, remedy)

    @torch.inference_mode()
    def measure(self, llm: PreTrainedModel) -> dict[str, Any]:
        """What a model with the base model's output layer has lost, in nats per token.

        Returns:
            ``text``: kind of text → mean ``loss`` (cross-entropy) and ``kl`` (base ‖ now), the
            same of each window as ``window_loss`` and ``window_kl``, and the predicted ``tokens``;
            ``text_loss`` and ``kl``: their means over the kinds, each of which counts the same.
        """
        text = {}
        for kind, windows in self.windows.items():
            losses, kls = [], []
            for window, hidden in zip(windows, self._base[kind], strict=True):
                base = _log_probabilities(llm, hidden.to(llm.device))
                now = _log_probabilities(llm, _read(llm, window))
                kl = functional.kl_div(now, base, reduction="batchmean", log_target=True)
                losses.append(functional.nll_loss(now, window[1:].to(now.device)).item())
                kls.append(kl.item())
            text[kind] = {
                "loss": sum(losses) / len(losses),
                "kl": sum(kls) / len(kls),
                "tokens": windows[:, 1:].numel(),
                "window_loss": [round(value, DIGITS) for value in losses],
                "window_kl": [round(value, DIGITS) for value in kls],
            }
        return {
            "text_loss": sum(t["loss"] for t in text.values()) / len(text),
            "kl": sum(t["kl"] for t in text.values()) / len(text),
            "text": text,
        }


@torch.inference_mode()
def _read(llm: PreTrainedModel, window: Tensor) -> Tensor:
    """(length + 1,) ids → what enters the output layer, (length, width)."""
    ids = window[None, :-1].to(llm.device)
    with autocast(llm):
        return llm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]


@torch.inference_mode()
def _log_probabilities(llm: PreTrainedModel, hidden: Tensor) -> Tensor:
    with autocast(llm):
        logits = llm.get_output_embeddings()(hidden[None])[0]
    return functional.log_softmax(logits.float(), dim=-1)


def evaluate(
    model: SpeechLLM, tests: Sequence[Utterances], forgetting: Forgetting, max_new_tokens: int
) -> dict[str, Any]:
    """The ``metrics`` of one evaluation, for ``metrics.jsonl``, and the ``transcripts`` behind."""
    rows = {t.corpus: transcribe_all(model, t, max_new_tokens) for t in tests}
    flat = [row for of_corpus in rows.values() for row in of_corpus]
    metrics = {
        **heldout_loss(model, tests),
        "wer": {
            t.corpus: word_error_rate(
                t.texts, [row["hypothesis"] for row in rows[t.corpus]], t.language
            )
            for t in tests
        },
        **forgetting.measure(model.llm),
        "capped": sum(r["capped"] for r in flat) / len(flat),
        "empty": sum(not r["hypothesis"] for r in flat) / len(flat),
    }
    return {"metrics": metrics, "transcripts": flat}
