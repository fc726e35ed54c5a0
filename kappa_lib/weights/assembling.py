"""Weights that are stored in factors: put together as the model does it, or refused by name.

Put together are weight normalisation, g·v/‖v‖, under PyTorch's two kinds of names, and pruning,
weight times mask. Refused are other parametrisations, LoRA beside the weight that it changes (the
measure in which it is added stands in another file), and adapters alone.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from kappa_lib.errors import CheckpointError
from kappa_lib.text import counted
from kappa_lib.weights.checkpoint import TensorInfo, refusal, replaced

_PARAMETRIZED = re.compile(r"((?:.+\.)?)parametrizations\.(\w+)\.(.+)")
_SPLIT = re.compile(r"((?:.+\.)?\w*(?:weight|bias)\w*?)_(g|v|u|orig|mask)")
_FACTOR = re.compile(
    r"[._](lora_(A|B|down|up|mid|embedding_[AB]|magnitude_vector)|lora\.(down|up)|hada_[wt]\d"
    r"|lok[ra]_[wt]\d|dora_scale|b?oft_\w+|vera_\w+|ia3_l|randlora_\w+|fourierft_\w+)(_[ab])?(\.|$)"
)
_MERGE = "merge the adapter into its model (PEFT's merge_and_unload), and scan that"


def assembled(
    stored: Mapping[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], list[CheckpointError]]:
    """The weights that act, by name, and what is wrong with the file as a whole."""
    made, hidden = {}, set()
    for name, parts in _split(stored).items():
        made[next(iter(parts.values()))] = _together(name, parts, stored)
        hidden |= set(parts.values())
    adapters = _adapters(stored)
    hidden |= adapters.keys()
    changed = set()
    for module in set(adapters.values()):
        for name in {f"{module}.base_layer.weight", f"{module}.weight"} & stored.keys():
            what = f"{name}: LoRA's product is added to it, in a measure that is not stored here"
            made[name] = refusal(stored[name], what, _MERGE)
            changed.add(module)
    alone = [name for name, module in adapters.items() if module not in changed]
    problems = []
    if alone:
        what = f"{counted(len(alone), 'tensor')} of an adapter, such as {alone[0]}: no weights"
        problems.append(CheckpointError(f"{what}, but what is added to those of a model", _MERGE))
    return replaced(stored, made, hidden), problems


def _split(stored: Mapping[str, TensorInfo]) -> dict[str, dict[str, str]]:
    """Weight → its parts, by what PyTorch calls them: ``g`` and ``v``, ``original0``, ``mask``."""
    found: dict[str, dict[str, str]] = {}
    for name in stored:
        if match := _PARAMETRIZED.fullmatch(name):
            found.setdefault(match[1] + match[2], {})[match[3]] = name
        elif match := _SPLIT.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = name
    # A mask alone, or a vector called weight_v, is what its name says.
    return {name: parts for name, parts in found.items() if parts.keys() - {"v", "u", "mask"}}


def _together(name: str, parts: Mapping[str, str], stored: Mapping[str, TensorInfo]) -> TensorInfo:
    """The weight that the parts make up."""
    held = {role: stored[part] for role, part in sorted(parts.items())}
    if held.keys() in ({"g", "v"}, {"original0", "original1"}):
        size, direction = held.values()
        if _one_for_each(size.shape, direction.shape):
            return replace(direction, name=name, source=partial(_scaled, size, direction))
    if held.keys() == {"orig", "mask"} and len({part.shape for part in held.values()}) == 1:
        mask, weight = held.values()
        return replace(weight, name=name, source=lambda: weight.read() * mask.read())
    largest = max(held.values(), key=lambda part: len(part.shape))
    what = f"{name}: stored as {', '.join(parts.values())}, which can't be put together here"
    remedy = "save the model with the parametrisation removed (torch.nn.utils.parametrize)"
    return refusal(replace(largest, name=name), what, remedy)


def _one_for_each(size: tuple[int, ...], direction: tuple[int, ...]) -> bool:
    """Whether a size is stored for each index of one dimension, or one for all."""
    along = [n for n in size if n != 1]
    fits = len(size) == len(direction) and all(
        n in (1, m) for n, m in zip(size, direction, strict=True)
    )
    return not size or (fits and len(along) <= 1)


def _scaled(size: TensorInfo, direction: TensorInfo) -> torch.Tensor:
    """g·v/‖v‖, the norm taken over the dimensions in which g has one entry."""
    g, v = size.read().double(), direction.read().double()
    over = [d for d in range(v.ndim) if g.ndim == 0 or g.shape[d] == 1]
    return (g * v / torch.linalg.vector_norm(v, dim=over, keepdim=True)).float()


def _adapters(stored: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Names of adapters' tensors → the module that each changes."""
    found = {name: name[: match.start()] for name in stored if (match := _FACTOR.search(name))}
    # PEFT saves an adapter under this prefix, whatever its kind, and what was trained beside it.
    if not any(".base_layer." in name for name in stored):
        prefixed = [name for name in stored if name.startswith("base_model.model.")]
        found |= {name: found.get(name, name) for name in prefixed}
    return found
