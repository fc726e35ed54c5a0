"""A model's tensors before they are read, whatever kind of storage they come from.

Names are the torch module's, or, of files, those that are stored. :mod:`kappa_lib.weights.models`
opens a checkpoint, :mod:`kappa_lib.weights.loaded` says what its tensors are in the model.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from kappa_lib.errors import CheckpointError, KappaError, first_line
from kappa_lib.files import sha256


@dataclass(frozen=True)
class TensorInfo:
    """A tensor before it is read."""

    name: str  # of the parameter in the torch module
    shape: tuple[int, ...]  # as the module has it; of one that is refused, of what is stored
    dtype: str  # as stored, e.g. BF16 or Q4_1
    source: Callable[[], torch.Tensor]  # makes its values; raises whatever its format's reader does
    files: tuple[str, ...] = ()  # that hold what it is made of; none of a module in memory
    refused: tuple[str, ...] = ()  # what is wrong with one that can't be read, and what to do
    stack: bool = False  # of experts' matrices (experts, rows, cols), instead of a single matrix
    why: str = ""  # it is not measured unless it is asked for; empty for a weight
    # Reads the matrix of that index, where those of a stack are stored one by one.
    expert: Callable[[int], torch.Tensor] | None = None

    @property
    def matrices(self) -> list[str]:
        """Names of its matrices: its own, or ``<name>[i]`` of each in a stack."""
        return [f"{self.name}[{i}]" for i in range(self.shape[0])] if self.stack else [self.name]

    def read(self) -> torch.Tensor:
        """Its values, a floating-point CPU tensor; CheckpointError where they can't be had."""
        if self.refused:
            raise CheckpointError(*self.refused)
        try:
            return self.source()
        except KappaError:
            raise
        except Exception as error:  # damaged files; parts of a packed weight that do not fit
            what = f"{self.name}: stored as {self.dtype} and can't be read: {first_line(error)}"
            remedy = "fetch its file again, or scan the original, unquantised checkpoint"
            raise CheckpointError(what, remedy) from error


def refusal(stored: TensorInfo, what: str, remedy: str) -> TensorInfo:
    """A weight that is known to be there and can't be read: its name stays in the list."""
    # A plain list of codes is shown as a column, so that patterns for matrices reach it.
    shape = stored.shape if len(stored.shape) > 1 else (*stored.shape, 1)
    return replace(stored, shape=shape, refused=(what, remedy))


def replaced(
    stored: Mapping[str, TensorInfo], made: Mapping[str, TensorInfo], hidden: set[str]
) -> dict[str, TensorInfo]:
    """Tensors in the order of storage, with weights that are ``made`` of others in place of one
    of them (stored name → weight), and without the other parts of these, which are ``hidden``."""
    kept = [made.get(n, info) for n, info in stored.items() if n in made or n not in hidden]
    return {info.name: info for info in kept}


def files_of(parts: Iterable[TensorInfo]) -> tuple[str, ...]:
    """The files that hold what a tensor is made of, each once."""
    return tuple(dict.fromkeys(file for part in parts for file in part.files))


@dataclass
class Checkpoint:
    """The tensors of a model; what is broken is named, and the rest can still be read."""

    model_id: str  # what the source calls itself
    revision: str = ""  # commit of a hub snapshot
    folder: Path = Path()  # where its files lie
    config: str = ""  # text of the config.json beside the files
    tensors: list[TensorInfo] = field(default_factory=list)  # in storage order, also those refused
    left_out: dict[str, str] = field(default_factory=dict)  # tensor or file that is not read → why
    problems: list[CheckpointError] = field(default_factory=list)  # of whole files
    absent: dict[str, str] = field(default_factory=dict)  # weight of the model, not stored → why
    basis: str = ""  # what it rests on which tensors are weights; empty until that is decided
    _hashes: dict[str, str] = field(default_factory=dict)

    def files(self, info: TensorInfo) -> dict[str, str]:
        """Name → SHA-256 of the files that hold what a tensor is made of; none of a module."""
        for name in info.files:
            if name not in self._hashes:
                self._hashes[name] = sha256(self.folder / name)
        return {name: self._hashes[name] for name in info.files}

    def digest(self, info: TensorInfo) -> str:
        """SHA-256 of the files that hold a tensor, or of its own bytes for a module."""
        if info.files:
            return "+".join(self.files(info).values())
        values = info.read().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(values.numpy().data).hexdigest()

    def matrices(self, info: TensorInfo) -> Iterator[tuple[str, torch.Tensor]]:
        """A tensor's matrices by name: a stack's one by one, a convolution as (out, rest).

        Errors are those of ``info.read``.
        """
        if info.expert:
            yield from ((name, info.expert(i)) for i, name in enumerate(info.matrices))
            return
        tensor = info.read()
        yield from zip(info.matrices, tensor if info.stack else [tensor.flatten(1)], strict=True)
