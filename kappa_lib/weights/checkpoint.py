"""Weights of a model, one tensor in memory at a time: what every kind of storage offers.

Names are the torch module's, or, of files, those that are stored: for one text decoder the same,
while transformers renames parts of multimodal models, and fuses experts, as it loads them:
:mod:`kappa_lib.weights.renaming` translates. :mod:`kappa_lib.weights.models` opens a checkpoint.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kappa_lib.errors import CheckpointError

_EMBEDDING = re.compile(
    r"(embed_tokens|lm_head|token_embd|wte|wpe|embed_positions|word_embedd|embed_in|embed_out"
    r"|backbone\.embeddings|^output\.weight$)"
)
_EXPERTS = re.compile(r"(experts?|exps)(\.|_|$)|(moe|mlp)\.(input|output)_linear\.")


@dataclass(frozen=True)
class TensorInfo:
    """A stored tensor before it is read.

    Attributes:
        name: parameter name in the torch module.
        shape: as the module has it.
        dtype: as stored, e.g. ``BF16`` or ``Q4_1``.
        shard: name of the file that holds it, ``memory`` for a module.
        kind: how the tensor becomes matrices: ``matrix``, ``convolution``, ``experts``,
            ``embedding`` or ``other``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    shard: str
    kind: str


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """Kind of a tensor of which only name and shape are known."""
    # The two of a LoRA adapter are no weight: what it changes is their product.
    if len(shape) < 2 or name.endswith("bias") or ".lora_" in name:
        return "other"
    if _EMBEDDING.search(name):
        return "embedding"
    if len(shape) == 3 and 0 not in shape and _EXPERTS.search(name):
        return "experts"
    # A filter a channel, as state-space layers have it, is no matrix: each acts by itself.
    if len(shape) == 3 and shape[1] == 1:
        return "other"
    return "matrix" if len(shape) == 2 else "convolution"


class Checkpoint(ABC):
    """A source of named tensors.

    Attributes:
        model_id: what the source calls itself.
        revision: commit of a hub snapshot, else empty.
        config: text of the ``config.json`` beside the files, else empty.
        tensors: everything readable, in storage order.
        problems: what is broken, each named; the rest can still be read.
    """

    def __init__(self, model_id: str, revision: str = "") -> None:
        self.model_id = model_id
        self.revision = revision
        self.config = ""
        self.tensors: list[TensorInfo] = []
        self.problems: list[CheckpointError] = []

    @abstractmethod
    def read(self, info: TensorInfo) -> torch.Tensor:
        """The tensor's values: a floating-point CPU tensor of ``info.shape``.

        Raises:
            CheckpointError: truncated data, or a packing that is not understood.
        """

    @abstractmethod
    def digest(self, info: TensorInfo) -> str:
        """SHA-256 of the file that holds the tensor (of its own bytes for a module)."""


class ModuleCheckpoint(Checkpoint):
    """The parameters of a loaded module; tied ones once, under their first name."""

    def __init__(self, module: nn.Module) -> None:
        config = getattr(module, "config", None)
        # The folder's name where it was loaded from a folder: where that lay says nothing.
        name = Path(getattr(config, "_name_or_path", ""))
        shown = name.name if name.is_absolute() else name.as_posix()
        super().__init__(shown if name.name else type(module).__name__)
        self._parameters = dict(module.named_parameters())
        owners = dict(module.named_modules())
        for name, parameter in self._parameters.items():
            shape = tuple(parameter.shape)
            dtype = str(parameter.dtype).removeprefix("torch.")
            table = isinstance(owners[name.rpartition(".")[0]], nn.Embedding)
            kind = "embedding" if table else kind_of(name, shape)
            self.tensors.append(TensorInfo(name, shape, dtype, "memory", kind))

    def read(self, info: TensorInfo) -> torch.Tensor:
        parameter = self._parameters[info.name].detach()
        if parameter.is_meta:
            raise CheckpointError(f"{info.name}: on the meta device, without values", "load it")
        if not parameter.is_floating_point():
            raise CheckpointError(
                f"{info.name}: packed as {info.dtype}, which holds codes and not weights",
                "scan the folder the model was loaded from, or load it unquantised",
            )
        return parameter.cpu()

    def digest(self, info: TensorInfo) -> str:
        values = self.read(info).contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(values.numpy().data).hexdigest()
