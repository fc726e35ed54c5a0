"""Forward passes one decoder layer at a time, and the moments of what each ``nn.Linear`` is given.

Shapes: a batch of windows is (windows, tokens) ids; hidden states are (windows, tokens, width).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from kappa_lib.errors import InputError

BATCH = 8  # windows a forward pass: 2,048 tokens of 256


class Layered:
    """A causal language model whose decoder layers can be run one by one.

    What a layer is given besides the hidden states (positions, rotary angles, mask) depends on
    the length of the windows alone; it is taken from one ordinary pass over a window of that
    length, so that any decoder of transformers can be walked.

    Args:
        llm: the model, in evaluation mode.
        length: tokens of every window.
    """

    def __init__(self, llm: PreTrainedModel, length: int) -> None:
        self.llm, self.length = llm, length
        self.decoder = llm.get_decoder()
        self.layers = self.decoder.layers
        self._options: list[dict[str, Any]] = []
        hooks = [
            layer.register_forward_pre_hook(self._keep_options, with_kwargs=True)
            for layer in self.layers
        ]
        try:
            with torch.inference_mode():
                self.decoder(torch.zeros(1, length, dtype=torch.long), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep_options(self, layer: nn.Module, inputs: tuple, options: dict[str, Any]) -> None:
        self._options.append({k: v for k, v in options.items() if k != "hidden_states"})

    def embed(self, ids: Tensor) -> Tensor:
        """(windows, length) ids → what the first layer is given.

        Raises:
            InputError: windows of another length.
        """
        if ids.shape[-1] != self.length:
            raise InputError(f"windows of {ids.shape[-1]} tokens", f"give {self.length} tokens")
        return self.llm.get_input_embeddings()(ids)

    def layer(self, number: int, hidden: Tensor) -> Tensor:
        """Hidden states after a layer, from those before it."""
        out = self.layers[number](hidden, **self._options[number])
        return out[0] if isinstance(out, tuple) else out

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """(windows, tokens, vocabulary) fp32 log-probabilities, from the last layer's output."""
        logits = self.llm.get_output_embeddings()(self.decoder.norm(hidden))
        return functional.log_softmax(logits.float(), dim=-1)


class Moments:
    """Streaming first and second moment of vectors, accumulated in float64.

    Args:
        width: n, of the vectors.
        every: of the vectors added, each ``every``-th is also kept in ``sample``.
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
        """(kept, n) of the vectors themselves."""
        return torch.cat(self._kept)


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The ``nn.Linear`` of a decoder layer by their path in it."""
    return {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the block, a pass through the layer fills: path of an ``nn.Linear`` → its input."""
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        return lambda module, inputs: seen.__setitem__(name, inputs[0])

    hooks = [part.register_forward_pre_hook(keeper(n)) for n, part in linears(layer).items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def sharing(seen: dict[str, Tensor]) -> list[tuple[str, ...]]:
    """Paths grouped by the input they share, as query, key and value do."""
    groups: dict[int, list[str]] = {}
    for name, tensor in seen.items():
        groups.setdefault(id(tensor), []).append(name)
    return [tuple(names) for names in groups.values()]


@torch.inference_mode()
def input_moments(
    llm: PreTrainedModel, windows: Tensor, layers: Sequence[int] | None = None, sample: int = 2048
) -> Iterator[tuple[int, dict[str, Moments]]]:
    """Moments of the inputs of every ``nn.Linear``, one decoder layer after the other.

    At any time the hidden states between two layers are in memory, and what one batch of windows
    makes of them inside one layer.

    Args:
        llm: the model.
        windows: (windows, tokens) ids.
        layers: which layers to report; all by default. The walk ends after the last of them.
        sample: about how many input vectors to keep, spread evenly over the tokens.

    Yields:
        Number of the layer; path of the ``nn.Linear`` in it → moments. Paths with the same input
        share one object.
    """
    model = Layered(llm, windows.shape[1])
    wanted = range(len(model.layers)) if layers is None else sorted(layers)
    every = max(1, windows.numel() // sample)
    hidden = [model.embed(batch) for batch in windows.split(BATCH)]
    for number in range(max(wanted) + 1):
        moments: dict[str, Moments] = {}
        for place, before in enumerate(hidden):
            with inputs_of(model.layers[number]) as seen:
                hidden[place] = model.layer(number, before)
            for names in sharing(seen) if number in wanted else ():
                vectors = seen[names[0]].flatten(0, -2)
                shared = moments.setdefault(names[0], Moments(vectors.shape[1], every))
                shared.add(vectors)
                moments |= dict.fromkeys(names, shared)
        if number in wanted:
            yield number, moments
