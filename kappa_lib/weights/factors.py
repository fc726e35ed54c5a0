"""Weights that are stored in factors: refused by name, since none of these is the weight that acts.

Such are weight normalisation, pruning and other parametrisations, under PyTorch's two kinds of
names; and adapters, be they alone or inserted in a model.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from kappa_lib.errors import CheckpointError
from kappa_lib.text import counted
from kappa_lib.weights.checkpoint import TensorInfo, refusal, replaced

_PARAMETRIZED = re.compile(r"((?:.+\.)?)parametrizations\.(\w+)\.(.+)")
_SPLIT = re.compile(r"((?:.+\.)?)(\w*(?:weight|bias)\w*?)_(g|v|u|orig|mask)")
# First PEFT's prefix, also of what was trained beside an adapter; then a layer that PEFT wraps.
_ADAPTER = re.compile(
    r"^base_model\.model\.|\.base_layer\.\w+$"
    r"|[._](lora_(A|B|down|up|mid|embedding_[AB]|magnitude_vector)"
    r"|lora\.(down|up)|hada_[wt]\d|lok[ra]_[wt]\d|dora_scale|b?oft_\w+|vera_\w+|ia3_l|randlora_\w+"
    r"|fourierft_\w+)(_[ab])?(\.|$)",
    re.IGNORECASE,
)


def without_factors(
    stored: Mapping[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], list[CheckpointError]]:
    """The tensors by name, a refused weight in place of its factors; and what is wrong with all:
    where one of them is an adapter's, none is left."""
    if adapters := [name for name in stored if _ADAPTER.search(name)]:
        what = f"{counted(len(adapters), 'tensor')} of an adapter, such as {adapters[0]}"
        what += ": no weights, but what is added to those of a model"
        remedy = "merge the adapter into its model (PEFT's merge_and_unload), and scan that"
        return {}, [CheckpointError(what, remedy)]
    factors: dict[str, dict[str, str]] = {}  # weight → kind of factor → its name
    for name in stored:
        if match := _PARAMETRIZED.fullmatch(name) or _SPLIT.fullmatch(name):
            factors.setdefault(match[1] + match[2], {})[match[3]] = name
    made, hidden = {}, set()
    for name, parts in factors.items():
        # A mask alone, or a vector called weight_v, is what its name says.
        if parts.keys() <= {"v", "u", "mask"}:
            continue
        first, *others = parts.values()
        what = f"{name}: stored as {', '.join([first, *others])}, which can't be put together here"
        remedy = "save the model with the parametrisation removed (torch.nn.utils.parametrize)"
        made[first] = refusal(replace(stored[first], name=name), what, remedy)
        hidden |= {*others}
    return replaced(stored, made, hidden), []
