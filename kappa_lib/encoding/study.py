"""A model's tensors and the windows of text on which changes of them are measured."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kappa_lib.encoding.damage import CHANGES, Batch, Factors, reversed_kappas
from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.spectra.scan import scan
from kappa_lib.text import bundled_text
from kappa_lib.training.evaluation import KINDS
from kappa_lib.weights import models


@dataclass(frozen=True)
class Settings:
    """What a study measures, and on how many windows of every text.

    The defaults are those of the committed results.
    """

    input_windows: int = 11
    input_length: int = 256
    blocks: int = 2  # of windows for changes of single tensors
    length: int = 48
    model: str = models.DEFAULT  # as in a profile
    seed: int = 0


@dataclass(frozen=True)
class Cases:
    """The windows of a study, none of them in two places."""

    inputs: list[Batch]  # for moments
    blocks: list[list[Batch]]  # for changes of single tensors, each with a window of every text

    @property
    def windows(self) -> list[Batch]:
        """Those of all blocks, for noise and gradients."""
        return [batch for block in self.blocks for batch in block]


def of_texts(tokenizer: PreTrainedTokenizerBase, sizes: Settings) -> Cases:
    """Cases from the pinned texts: moments from the beginnings, then the blocks.

    Every window starts with the token that the tokenizer begins texts with, if it has one.
    InputError where a text is too short.
    """
    begin, width = tokenizer("")["input_ids"], sizes.length + 1
    head = sizes.input_windows * sizes.input_length
    end = head + sizes.blocks * width
    read, middle = [], []
    for kind in KINDS:
        ids = torch.tensor(tokenizer(bundled_text(kind), add_special_tokens=False)["input_ids"])
        if len(ids) < end:
            raise InputError(f"the text {kind} has {len(ids)} tokens", "ask for fewer windows")
        read.append(ids[:head].reshape(-1, sizes.input_length))
        middle.append(ids[head:end].reshape(-1, width))

    def batches(windows: list[Tensor], given: int | None = -1) -> list[Batch]:
        every = torch.cat(windows)
        inputs = torch.cat([torch.tensor(begin).long().expand(len(every), -1), every], dim=1)
        return [
            Batch({"input_ids": inputs[i : i + 8, :given]}, every[i : i + 8, 1:])
            for i in range(0, len(every), 8)
        ]

    blocks = [batches([part[n : n + 1] for part in middle]) for n in range(sizes.blocks)]
    return Cases(batches(read, None), blocks)


class Study:
    """A model's tensors inside layers with their κ, and the windows they are measured on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.llm, tokenizer = models.load(settings.model)
        self.cases = of_texts(tokenizer, settings)
        table = scan(self.llm)
        self.table = table[table["layer"].notna()].reset_index(drop=True)
        self.weights = {name: self.llm.get_parameter(name) for name in self.table["tensor"]}
        # κ that surgery gives to each.
        self.goal = reversed_kappas(self.table.set_index("tensor")["kappa"].to_dict())

    def changed(self, tensor: str, change: str) -> Tensor:
        """A tensor after one of ``CHANGES``, (m, n) float64."""
        number = int(fingerprint([self.settings.seed, tensor, change])[:12], 16)
        generator = torch.Generator().manual_seed(number)
        return CHANGES[change](Factors.of(self.weights[tensor]), generator, self.goal[tensor])
