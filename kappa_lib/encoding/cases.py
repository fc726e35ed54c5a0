"""What a model is run on: windows of texts, or spoken prompts."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.speech import features
from kappa_lib.text import bundled_text, text_metadata
from kappa_lib.training.evaluation import KINDS
from kappa_lib.training.experiment import Experiment
from kappa_lib.weights import models


@dataclass(frozen=True)
class Batch:
    """Windows of one length."""

    inputs: dict[str, Tensor]  # arguments of the decoder's call, windows first
    targets: Tensor  # (windows, tokens) ids, which the last positions are to predict
    labels: list[str]  # of what each window is, a text or a corpus

    @property
    def key(self) -> str:
        """Fingerprint of all that the model is given."""
        tensors = {**self.inputs, "targets": self.targets}
        hashes = {k: sha256(v.numpy().tobytes()).hexdigest() for k, v in tensors.items()}
        return fingerprint([hashes, self.labels])


@dataclass(frozen=True)
class Cases:
    """The windows of a study, none of them in two places."""

    inputs: list[Batch]  # for moments
    surgery: list[Batch]  # for changes of whole types
    blocks: list[list[Batch]]  # for changes of single tensors, each with a window of every label

    @property
    def two_blocks(self) -> list[Batch]:
        """The windows of the first two blocks, for noise and gradients."""
        return [batch for block in self.blocks[:2] for batch in block]


@dataclass(frozen=True)
class Settings:
    """What a study measures, and on how many windows (or utterances) of every text or corpus.

    The defaults are those of the committed results.
    """

    input_windows: int = 11
    input_length: int = 256
    # How often every tensor's damage is measured, each time on other windows: 15 minutes a block
    # of two cores, and 20 for all else.
    blocks: int = 2
    length: int = 48  # short, since 1,890 changes are measured on each
    surgery_windows: int = 6
    surgery_length: int = 128
    model: str = models.DEFAULT  # as in a profile
    # A profile, whose first warm-started adaptor makes prompts of its test speech; None: texts.
    speech: str | None = None
    draws: int = 2  # of relative noise on every tensor
    layers: tuple[int, ...] | None = None
    types: tuple[str, ...] | None = None
    seed: int = 0


def load(settings: Settings) -> tuple[PreTrainedModel, Cases]:
    """A model and the windows it is measured on.

    InputError for a profile of another model, or where there is too little text or speech.
    """
    if settings.speech is None:
        llm, tokenizer = models.load(settings.model)
        return llm, of_texts(tokenizer, settings)
    profile = profiles.load(settings.speech)
    if profile.model != settings.model:
        what = f"the profile {settings.speech} has the model {profile.model}"
        raise InputError(what, "name that one")
    experiment = Experiment(profile, features.load(profile))
    experiment.warm_start(profile.seeds[0])
    return experiment.llm, _of_utterances(_prompts(experiment), settings)


def of_texts(tokenizer: PreTrainedTokenizerBase, sizes: Settings) -> Cases:
    """Cases from the pinned texts: moments from the beginnings, surgery from the ends.

    Every window starts with the token that the tokenizer begins texts with, if it has one.
    InputError where a text is too short.
    """
    begin, width, last = tokenizer("")["input_ids"], sizes.length + 1, sizes.surgery_length + 1
    head, tail = sizes.input_windows * sizes.input_length, sizes.surgery_windows * last
    parts: list[tuple[Tensor, ...]] = []
    for kind in KINDS:
        ids = torch.tensor(tokenizer(bundled_text(kind), add_special_tokens=False)["input_ids"])
        if len(ids) < head + sizes.blocks * width + tail:
            raise InputError(f"the text {kind} has {len(ids)} tokens", "ask for fewer windows")
        middle = ids[head : head + sizes.blocks * width].reshape(-1, width)
        read = ids[:head].reshape(-1, sizes.input_length)
        parts.append((read, ids[len(ids) - tail :].reshape(-1, last), middle))

    def batches(windows: list[Tensor], given: int | None = -1) -> list[Batch]:
        labels = [k for k, part in zip(KINDS, windows, strict=True) for _ in part]
        every = torch.cat(windows)
        inputs = torch.cat([torch.tensor(begin).long().expand(len(every), -1), every], dim=1)
        return [
            Batch({"input_ids": inputs[i : i + 8, :given]}, every[i : i + 8, 1:], labels[i : i + 8])
            for i in range(0, len(every), 8)
        ]

    read, surgery, middle = (list(part) for part in zip(*parts, strict=True))
    blocks = [batches([part[n : n + 1] for part in middle]) for n in range(sizes.blocks)]
    return Cases(batches(read, None), batches(surgery), blocks)


def _of_utterances(utterances: Iterator[Batch], sizes: Settings) -> Cases:
    """Cases from utterances, the same number of each corpus in every part."""
    by_corpus: dict[str, list[Batch]] = {}
    for batch in utterances:
        by_corpus.setdefault(batch.labels[0], []).append(batch)
    ends = np.cumsum([sizes.input_windows, sizes.surgery_windows, *[1] * sizes.blocks])
    if short := [name for name, found in by_corpus.items() if len(found) < ends[-1]]:
        raise InputError(f"{short[0]} has fewer than {ends[-1]} utterances", "ask for fewer")
    found = [
        [batch for part in by_corpus.values() for batch in part[start:end]]
        for start, end in zip((0, *ends[:-1]), ends, strict=True)
    ]
    return Cases(found[0], found[1], found[2:])


@torch.no_grad()  # not inference mode, whose tensors no gradient of a study may touch
def _prompts(experiment: Experiment) -> Iterator[Batch]:
    """Test utterances as the speech LLM reads them: instruction, adapted audio, transcript."""
    model = experiment.speech_llm(experiment.profile.seeds[0])
    for test in experiment.data.tests:
        for text, frames in zip(test.texts, test.features, strict=True):
            (prompt,), answer = model.prompts([frames]), torch.tensor(model.targets(text))
            given = torch.cat([prompt, model.embeddings(answer[:-1])])
            yield Batch({"inputs_embeds": given[None]}, answer[None], [test.corpus])


def describe(settings: Settings) -> dict[str, dict[str, str]]:
    """What pins the weights and what was read, for a study's facts."""
    read = {kind: text_metadata()[kind]["sha256"] for kind in KINDS}
    if settings.speech:
        read = {"speech": f"test split of the profile {settings.speech}"}
    return {"model": models.identity(settings.model), "texts": read}
