"""What a model is run on: windows of texts."""

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.text import bundled_text
from kappa_lib.training.evaluation import KINDS
from kappa_lib.weights import models


@dataclass(frozen=True)
class Batch:
    """Windows of one length."""

    inputs: dict[str, Tensor]  # arguments of the decoder's call, windows first
    targets: Tensor  # (windows, tokens) ids, which the last positions are to predict
    labels: list[str]  # the text of each window

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
    """What a study measures, and on how many windows of every text.

    The defaults are those of the committed results.
    """

    input_windows: int = 11
    input_length: int = 256
    # How often every tensor's damage is measured, each time on other windows: half an hour or less
    # a block of two cores.
    blocks: int = 2
    length: int = 48  # short, since 1,890 changes are measured on each
    surgery_windows: int = 6
    surgery_length: int = 128
    model: str = models.DEFAULT  # as in a profile
    draws: int = 2  # of relative noise on every tensor
    seed: int = 0


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
