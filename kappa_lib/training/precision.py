"""bfloat16 weights that can be trained: fp32 for what trains, bf16 arithmetic; on a GPU, layers
recomputed.

A bf16 number has 8 significant bits, so an update below a 512th of the weight is rounded away,
and at the learning rates of models of this size most are. What trains is therefore kept in fp32
(it is its own master copy), while autocast rounds it to bf16 for every product; what is frozen
stays in bf16. In fp32 all of this is switched off and nothing changes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel


def is_mixed(llm: PreTrainedModel) -> bool:
    """Whether the model's frozen weights are narrower than fp32."""
    return llm.get_input_embeddings().weight.dtype != torch.float32


def recomputes(llm: PreTrainedModel) -> bool:
    """Whether layers are run again for the backward pass: a GPU's memory is what is scarce.

    A processor has memory to spare and no time; there it would cost a quarter of a step.
    """
    return is_mixed(llm) and llm.get_input_embeddings().weight.device.type != "cpu"


def autocast(llm: PreTrainedModel) -> torch.autocast:
    """A context in which products with ``llm``'s weights are taken in its own type.

    Nothing is cached: the rounded copies of all that trains would be held to the end of a pass,
    and each is needed in one layer.
    """
    kind = llm.get_input_embeddings().weight.device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=is_mixed(llm), cache_enabled=False)


def to_float32(parameters: Iterable[nn.Parameter]) -> None:
    """Hold these parameters in fp32 from here on; exact, since bf16 is a part of it."""
    for parameter in parameters:
        parameter.data = parameter.data.float()


@contextmanager
def gradient_checkpointing(llm: PreTrainedModel) -> Iterator[None]:
    """Inside, a forward pass keeps only its layers' inputs where :func:`recomputes` says so.

    Transformers recomputes in training mode alone; Llama has no dropout for that to switch on.
    """
    if not recomputes(llm):
        yield
        return
    llm.activation_checkpointing_enable()
    llm.train()
    try:
        yield
    finally:
        llm.eval()
        llm.activation_checkpointing_disable()
