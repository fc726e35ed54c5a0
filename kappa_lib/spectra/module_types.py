"""Module types: which tensors of a model's layers are of one kind, by their names."""

import re
from collections import Counter
from collections.abc import Iterable

import pandas as pd

_USUAL_ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def modules(name: str) -> tuple[str, ...]:
    """Modules in a tensor's name, outermost first, without numbers."""
    parts = re.sub(r"\[\d+\]$", "", name).split(".")
    return tuple(p for p in parts if p and not p.isdigit() and p != "weight") or (name,)


def types_of(names: Iterable[str]) -> dict[str, str]:
    """Tensor → module type, of all matrices of a model: the name of its own module.

    Where modules share it, as many of their parents go before it as tell them apart: GPT-2's
    ``h.3.mlp.c_proj.weight`` is a ``mlp.c_proj``, for there is ``attn.c_proj``, too. So encoder and
    decoder, or what sees and what speaks, have types of their own.
    """
    paths = {name: modules(name) for name in names}
    endings = Counter(path[i:] for path in set(paths.values()) for i in range(len(path)))

    def shortest(path: tuple[str, ...]) -> str:
        tails = (path[i:] for i in reversed(range(len(path))))
        return ".".join(next((tail for tail in tails if endings[tail] == 1), path))

    return {name: shortest(path) for name, path in paths.items()}


def types(table: pd.DataFrame) -> list[str]:
    """Module types inside decoder layers: attention before MLP where the names are known."""
    found = table.loc[table["layer"].notna(), "type"].unique()
    order = {kind: place for place, kind in enumerate(_USUAL_ORDER)}
    return sorted(found, key=lambda kind: order.get(kind.rpartition(".")[2], len(order)))
