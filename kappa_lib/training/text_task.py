"""A task of text alone: to give a sentence back the vowels that it has lost.

"Dr Lts ght vn Brd." → "Der Lotse geht von Bord." It is new to a language model, needs its
language, and is judged like a transcript: by the word error rate on sentences not trained on.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from kappa_lib.errors import InputError
from kappa_lib.files import read_json, stage, write_json
from kappa_lib.profiles import Profile
from kappa_lib.speech import corpora
from kappa_lib.speech.features import SpeechData, Utterances
from kappa_lib.training.experiment import EVAL_KEYS, Experiment
from kappa_lib.training.model import SpeechLLM
from kappa_lib.weights import models

INSTRUCTION = "Restore the missing vowels."
_VOWELS = re.compile("[aeiouäöü]", re.IGNORECASE)


def without_vowels(text: str) -> str:
    """The text without its vowels; a word of nothing else is gone."""
    return " ".join(_VOWELS.sub("", text).split())


def load(profile: Profile) -> SpeechData:
    """Sentences of the profile's corpora, each with the token ids of what is left of it.

    The split into training and test is that of the spoken corpora. InputError where a corpus has
    no sentences of its own, or none to train or test on.
    """
    data, tokenizer = SpeechData([], [], [], []), models.tokenizer(profile.model)
    for corpus in sorted(profile.train_utterances.keys() | profile.test_utterances.keys()):
        counts = profile.train_utterances.get(corpus, 0), profile.test_utterances.get(corpus, 0)
        for part, rows in corpora.split(corpus, *counts, profile.seed).items():
            ids, texts = [row.id for row in rows], [row.text for row in rows]
            left = [tokenizer(without_vowels(text), add_special_tokens=False) for text in texts]
            questions = [torch.tensor(found["input_ids"], dtype=torch.long) for found in left]
            data.add(part, Utterances(corpus, profile.language(corpus), ids, texts, questions))
    if not data.ids or not data.tests:
        raise InputError("nothing to train or to test on", "raise the counts of sentences")
    write_json(profile.folder / "split.json", {"sha256": data.key, "used": data.used})
    return data


def embedded(llm: PreTrainedModel, questions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """In the adaptor's place: (tokens,) ids of what is asked → the language model's own (batch,
    longest, width) embeddings of them, and the lengths."""
    table = llm.get_input_embeddings()
    ids = pad_sequence(list(questions), batch_first=True).to(table.weight.device)
    return table(ids), torch.tensor([len(q) for q in questions], device=ids.device)


class TextExperiment(Experiment):
    """The runs' model, data and evaluation where the task is text alone."""

    def _untrained(self, seed: int) -> SpeechLLM:
        return SpeechLLM(self.llm, self.tokenizer, partial(embedded, self.llm), INSTRUCTION)

    def warm_start(self, seed: int) -> dict[str, Any]:
        """Nothing to warm up: the evaluation of the original model, the same for every seed."""
        path = self.profile.folder / "start.json"
        inputs = self.describe("model", "dtype", "task", *EVAL_KEYS)

        def make() -> None:
            write_json(path, self.evaluate(self.speech_llm(seed)))

        stage("start", self.profile.folder, inputs, [path], make)
        return read_json(path)
