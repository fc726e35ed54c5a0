"""Weights of a model, one tensor in memory at a time: what every kind of storage offers.

A :class:`Source` says how one weight is had; what is packed or stored in factors is put together
on the way (:mod:`kappa_lib.weights.packing`, :mod:`kappa_lib.weights.assembling`). Names are the
torch module's, or, of files, those that are stored. :mod:`kappa_lib.weights.models` opens a
checkpoint, :mod:`kappa_lib.weights.loaded` says what its tensors are in the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from kappa_lib.errors import CheckpointError


@dataclass(frozen=True)
class TensorInfo:
    """A stored tensor before it is read.

    Attributes:
        name: parameter name in the torch module.
        shape: as the module has it.
        dtype: as stored, e.g. ``BF16`` or ``Q4_1``.
        shard: name of the file that holds it, ``memory`` for a module.
        refused: whether reading it can only raise.
        stack: a stack of experts' matrices (experts, rows, cols) instead of a single matrix.
        why: why it is not measured unless it is asked for, empty for a weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    shard: str
    refused: bool = False
    stack: bool = False
    why: str = ""

    @property
    def matrices(self) -> list[str]:
        """Names of its matrices: its own, or ``<name>[i]`` of each in a stack."""
        return [f"{self.name}[{i}]" for i in range(self.shape[0])] if self.stack else [self.name]


@dataclass(frozen=True)
class Source:
    """How one weight is had from what is stored.

    Attributes:
        dtype: as stored, e.g. ``BF16`` or ``NF4``.
        shape: of the values.
        read: returns them; raises CheckpointError where they can't be had.
        file: name of the file that holds it, ``memory`` for a module.
        refused: whether ``read`` can only raise; the shape is then that of what is stored.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    file: str = "memory"
    refused: bool = False


def refusal(stored: Source, what: str, remedy: str) -> Source:
    """A weight that is known to be there and can't be read: its name stays in the list."""

    def read() -> torch.Tensor:
        raise CheckpointError(what, remedy)

    # A plain list of codes is shown as a column, so that patterns for matrices reach it.
    shape = stored.shape if len(stored.shape) > 1 else (*stored.shape, 1)
    return Source(stored.dtype, shape, read, stored.file, refused=True)


def replaced(
    stored: Mapping[str, Source], made: Mapping[str, tuple[str, Source]], hidden: set[str]
) -> dict[str, Source]:
    """Sources in the order of storage, some of them put together from others.

    Args:
        stored: name → source.
        made: stored name → name and source of the weight that takes its place.
        hidden: names of what is a part of those and no weight by itself.
    """
    found = {}
    for name, source in stored.items():
        if name in made:
            new, together = made[name]
            found[new] = replace(together, file=source.file)
        elif name not in hidden:
            found[name] = source
    return found


class Checkpoint(ABC):
    """A source of named tensors.

    Attributes:
        model_id: what the source calls itself.
        revision: commit of a hub snapshot, else empty.
        config: text of the ``config.json`` beside the files, else empty.
        tensors: every weight, in storage order; reading one that is refused raises the reason.
        left_out: what is no weight, or not read: name of a tensor or file → why.
        problems: what is broken, each named; the rest can still be read.
        absent: weights that the model has and the source lacks, and why.
        basis: what it rests on which tensors are weights.
    """

    def __init__(self, model_id: str, revision: str = "") -> None:
        self.model_id = model_id
        self.revision = revision
        self.config = ""
        self.tensors: list[TensorInfo] = []
        self.left_out: dict[str, str] = {}
        self.problems: list[CheckpointError] = []
        self.absent: dict[str, str] = {}
        self.basis = ""

    @abstractmethod
    def read(self, info: TensorInfo) -> torch.Tensor:
        """The tensor's values: a floating-point CPU tensor of ``info.shape``.

        Raises:
            CheckpointError: truncated data, a packing that is not understood, or factors that
                can't be put together.
        """

    @abstractmethod
    def digest(self, info: TensorInfo) -> str:
        """SHA-256 of the file that holds the tensor (of its own bytes for a module)."""

    def files(self, info: TensorInfo) -> dict[str, str]:
        """Name → SHA-256 of the files that hold what it is made of; none of a module."""
        return {} if info.shard == "memory" else {info.shard: self.digest(info)}

    def matrices(self, info: TensorInfo) -> Iterator[tuple[str, torch.Tensor]]:
        """Its matrices by name, each (rows, cols): a stack's one by one, a convolution (out, rest).

        Errors are those of :meth:`read`.
        """
        tensor = self.read(info)
        return zip(info.matrices, tensor if info.stack else [tensor.flatten(1)], strict=True)
