"""What a tensor of two or more dimensions is: a weight that can be measured, or why it is none.

The module that owns a parameter decides. Where there is no model to ask, the name does, by rules
that leave out what they do not know.
"""

import re
from collections.abc import Iterable

from torch import nn

# By the name of the last module: embeddings, norms of each head or group, tables of biases and of
# RWKV's factors, the output layer. Outside of any module GGUF and RWKV call it output and head.
_TABLE = re.compile(
    r"emb|norm|^(?:wte|wpe|shared|lm_head|token_types|time_mix_(?:first|r_k))$|_bias$|_rel_b$"
)
_HEAD = re.compile(r"(?:output|head)\.weight")
_STACK = re.compile(r"(?:experts?|exps)(?:\.|_|$)")
_WEIGHTS = ("weight", "in_proj_weight")
# The first number that a module's name stands behind: that of a layer. A model that is itself the
# first of several modules (sentence-transformers') has another number in front.
LAYER = re.compile(r"(?:^(?!.*\.(?:layers?|blocks?|h)\.\d+\.)|\.)(\d+)\.(?=[^.]+\.)")
VECTOR = "a vector"


def of_model(model: nn.Module) -> dict[str, tuple[bool, str]]:
    """Parameters of a model, tied ones once → whether it is a stack of experts, and why not.

    The second is empty for what is measured by default: weights of ``Linear``, ``Conv1D``,
    convolutions and attention, and 3-D parameters of a module that says how many experts it has.
    """
    asked = (m for m in model.modules() if hasattr(m, "get_output_embeddings"))  # it may be inside
    heads = [m.get_output_embeddings() for m in asked]
    found = {}
    for name, tensor in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        stack = tensor.ndim == 3 and _counts_experts(module, tensor.shape[0])
        is_weight = tensor.ndim > 1 or (leaf == "weight" and is_layer(module))
        why = _why_not(module, leaf, module in heads) if is_weight else VECTOR
        found[name] = stack, "" if stack else why
    for path, module in model.named_modules():  # whose weight is computed, as by weight norm
        if is_layer(module) and "weight" not in module._parameters:
            found[f"{path}.weight" if path else "weight"] = False, _why_not(module, "weight", False)
    return found


def _counts_experts(module: nn.Module, count: int) -> bool:
    sizes = {key: value for key, value in vars(module).items() if "expert" in key}
    return any(value == count and type(value) is int for value in sizes.values())


def is_layer(module: nn.Module) -> bool:
    """Whether its weight is a matrix that acts: of ``Linear``, ``Conv1D`` or a convolution."""
    # The second is transformers', which need not be there.
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    return isinstance(module, layers) or type(module).__name__ == "Conv1D"


def _why_not(module: nn.Module, leaf: str, is_head: bool) -> str:
    if isinstance(module, nn.Embedding):
        return "an embedding"
    if is_head:
        return "the output layer"
    if leaf == "weight" and is_layer(module):
        groups = getattr(module, "groups", 1)
        return f"a convolution in {groups} groups" if groups > 1 else ""
    if isinstance(module, nn.MultiheadAttention) and leaf.endswith("proj_weight"):
        return ""
    return f"a parameter of {type(module).__name__}, which is no linear layer or convolution"


def by_name(name: str, shape: tuple[int, ...]) -> tuple[bool, str]:
    """The same of a stored tensor of which no model is known."""
    *path, leaf = name.split(".")
    module = path[-1] if path else ""
    if len(shape) < 2:
        return False, VECTOR
    if len(shape) == 3 and _STACK.search(name) and not leaf.endswith("bias"):
        return True, ""
    if leaf not in _WEIGHTS:
        return False, "no weight by its name"
    if len(shape) == 2 and (_TABLE.search(module) or _HEAD.fullmatch(name)):
        return False, "an embedding, a norm, a table or the output layer by its name"
    if shape[1] == 1 or (len(shape) == 2 and re.search(r"conv1d|^conv(?:_dw)?$", module)):
        return False, "a convolution of one channel, or one filter per channel: a file cannot say"
    if len(shape) == 3 and "conv" not in name:
        return False, "a convolution or a stack of matrices: a file cannot say"
    return False, ""


def layer_of(name: str) -> int | None:
    """Index of the layer a tensor belongs to, None outside of layers."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def patterns(names: Iterable[str]) -> list[str]:
    """Names with ``*`` for their numbers where several differ by these alone, and how many."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"(?<=[.\[])\d+(?=[.\]])", "*", name), []).append(name)
    return [
        own[0] if len(own) == 1 else f"{pattern} ({len(own)})" for pattern, own in alike.items()
    ]


def by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    """Name → reason, the other way round, with ``*`` for numbers."""
    return {
        why: patterns(name for name, own in reasons.items() if own == why)
        for why in dict.fromkeys(reasons.values())
    }
