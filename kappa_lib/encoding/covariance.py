"""Passes through some of a decoder's layers; moments of what each ``nn.Linear`` is given."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

SAMPLE = 2048


@contextmanager
def only(layers: Sequence[nn.Module], first: int, start: Any, last: int) -> Iterator[None]:
    """Within the block a pass computes the layers from ``first`` to ``last`` alone.

    The layers before hand on ``start``, what the last of them gave in an earlier pass on the same
    inputs; those after hand on what they are given. The model itself still makes positions and
    masks, so that this holds for any decoder.
    """
    before, behind = layers[:first], layers[last + 1 :]
    for layer in before:
        layer.forward = lambda *_, **__: start
    for layer in behind:
        layer.forward = lambda hidden, *_, **__: hidden
    try:
        yield
    finally:
        for layer in (*before, *behind):
            del layer.forward


class Moments:
    """Streaming first and second moment of vectors (n,), accumulated in float64.

    Each ``every``-th vector is also kept in ``sample``, (kept, n).
    """

    def __init__(self, width: int, every: int = 1) -> None:
        self.count, self.every = 0, every
        self._total = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)
        self._kept: list[Tensor] = []

    def add(self, vectors: Tensor) -> None:
        """Take in (count, n) vectors."""
        wide = vectors.double()
        self._kept.append(vectors[-self.count % self.every :: self.every].clone())
        self.count += len(wide)
        self._total += wide.sum(0)
        self._products += wide.T @ wide

    @property
    def mean(self) -> Tensor:
        """(n,) mean."""
        return self._total / self.count

    @property
    def second(self) -> Tensor:
        """(n, n) second moment E xxᵀ, not centred."""
        return self._products / self.count

    @property
    def covariance(self) -> Tensor:
        """(n, n) covariance Σ_X, with division by the count."""
        return self.second - torch.outer(self.mean, self.mean)

    @property
    def sample(self) -> Tensor:
        return torch.cat(self._kept)


@torch.inference_mode()
def input_moments(
    llm: PreTrainedModel, inputs: Sequence[Mapping[str, Tensor]], layers: Collection[int]
) -> Iterator[tuple[int, dict[str, Moments]]]:
    """Moments of the inputs of every ``nn.Linear`` in some decoder layers, one after the other.

    At any time the hidden states between two layers are in memory, and what one batch makes of
    them inside one layer. ``inputs`` are those of :class:`kappa_lib.encoding.cases.Batch`; about
    ``SAMPLE`` input vectors are kept, spread evenly over the positions.

    Yields:
        Number of the layer; path in it → moments. Paths with the same input share one object.
    """
    decoder = llm.get_decoder()
    positions = sum(next(iter(given.values())).shape[:2].numel() for given in inputs)
    every = max(1, positions // SAMPLE)
    hidden: list[Any] = [None] * len(inputs)
    for number in range(max(layers) + 1):
        moments: dict[str, Moments] = {}
        for place, given in enumerate(inputs):
            seen, out = _pass(decoder, number, hidden[place], given)
            hidden[place] = out
            first: dict[int, str] = {}
            for path, tensor in seen.items() if number in layers else ():
                known = first.setdefault(id(tensor), path)
                if known == path:
                    vectors = tensor.flatten(0, -2)
                    moments.setdefault(path, Moments(vectors.shape[1], every)).add(vectors)
                else:
                    moments[path] = moments[known]
        if number in layers:
            yield number, moments


def _pass(
    decoder: nn.Module, number: int, start: Any, given: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Any]:
    """One layer alone: the input of each ``nn.Linear`` by its path, and what the layer gave."""
    layer, seen, out = decoder.layers[number], {}, []
    with ExitStack() as hooks, only(decoder.layers, number, start, number):
        for path, part in layer.named_modules():
            if isinstance(part, nn.Linear):
                hooks.enter_context(
                    part.register_forward_pre_hook(lambda _, x, at=path: seen.update({at: x[0]}))
                )
        hooks.enter_context(layer.register_forward_hook(lambda _, __, found: out.append(found)))
        decoder(**given, use_cache=False)
    return seen, out[0]
