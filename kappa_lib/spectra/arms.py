"""Rules that choose tensors: the paper's two arms and the controls that break them open."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.spectra.kappa_table import WITH_INPUTS
from kappa_lib.weights.kinds import LAYER

Table = pd.DataFrame
Draw = np.random.Generator
# κ table of the candidates, number of tensors, source of a draw → the rows that are chosen.
Rule = Callable[[Table, int, Draw], Table]


def parameters(table: Table) -> int:
    """Numbers in all matrices of a table."""
    return int((table["rows"] * table["cols"]).sum())


def _ranked(table: Table, count: int, rng: Draw, column: str, ascending: bool) -> Table:
    if column not in table:
        raise InputError(f"the κ table has no column {column!r}", WITH_INPUTS)
    return table.sort_values([column, "tensor"], ascending=[ascending, True]).head(count)


_LOWEST = partial(_ranked, column="kappa", ascending=True)
_HIGHEST = partial(_ranked, column="kappa", ascending=False)


def _within_type(table: Table, count: int, rng: Draw, rule: Rule) -> Table:
    """``count`` split over the types in proportion to their numbers, by largest remainder."""
    sizes = table["type"].value_counts().sort_index()
    exact = sizes * count / len(table)
    quotas = exact.astype(int)
    remainder = (exact - quotas).sort_values(ascending=False, kind="stable")
    quotas[remainder.index[: count - int(quotas.sum())]] += 1
    return pd.concat([rule(group, quotas[kind], rng) for kind, group in table.groupby("type")])


def _random(table: Table, count: int, rng: Draw) -> Table:
    return table.iloc[rng.permutation(len(table))[:count]]


def _random_like_selected(table: Table, count: int, rng: Draw) -> Table:
    quotas = _LOWEST(table, count, rng)["type"].value_counts()
    groups = [(kind, group) for kind, group in table.groupby("type") if kind in quotas]
    return pd.concat([_random(group, quotas[kind], rng) for kind, group in groups])


def _matched_size(table: Table, count: int, rng: Draw, order: Rule) -> Table:
    """As many parameters as the ``selected`` arm within 1 %, in the order of another rule; tensors
    that are too large for what is left are passed over."""
    wanted = parameters(_LOWEST(table, count, rng))
    ordered = order(table, len(table), rng)
    taken, room = [], wanted * 1.005
    for index, size in (ordered["rows"] * ordered["cols"]).items():
        if size <= room:
            taken.append(index)
            room -= size
    chosen = ordered.loc[taken]
    reached = parameters(chosen)
    if abs(reached - wanted) > 0.01 * wanted:
        what = f"{reached:,} parameters is the nearest to {wanted:,} that this order gives"
        raise InputError(what, "choose another count or seed")
    return chosen


def _of_neighbours(table: Table, count: int, rng: Draw, place: int) -> Table:
    """One of each two neighbouring layers' tensors of a type: the lower κ (0) or the higher (1).

    Both places get as many tensors of each type and shape. The last of an odd number of layers
    has no neighbour and goes to neither.
    """
    module = table["tensor"].str.replace(LAYER, ".", n=1, regex=True)
    ordered = table.assign(module=module).sort_values("layer", kind="stable")
    alike = ["module", "rows", "cols"]
    ordered["pair"] = ordered.groupby(alike).cumcount() // 2
    ordered = ordered.sort_values("kappa", kind="stable")
    sizes = ordered.groupby([*alike, "pair"])["kappa"].transform("size")
    return ordered[sizes == 2].groupby([*alike, "pair"]).nth(place)


def _module(table: Table, count: int, rng: Draw, pattern: str) -> Table:
    """The matrices whose name inside their layer has the pattern, in whichever case."""
    inside = "." + table["tensor"].str.split(LAYER, n=1).str[-1]
    return table[inside.str.contains(pattern, case=False, regex=True)]


# Attention says so in its name, or is what a layer of several kinds calls its mixer (Nemotron-H,
# RecurrentGemma). What doesn't is MLP, by whichever of many names, but for routers to experts and
# for mixers that are no attention: state spaces, recurrences, convolutions.
_ATTENTION_NAME = r"(?:att(?:n|ention)|(?:mixer|temporal_block)\.[qkvo]_proj\.)"
_MIXER = r"mixer\.(?!(?:shared_)?experts\.|(?:gate|up|down)_proj\.)"
_NEITHER = rf"router|(?:\.|expert_)gate\.|gate_inp|conv|lstm|mamba|{_MIXER}|ssm|temporal"
_ATTENTION = partial(_module, pattern=rf"^(?!.*router).*{_ATTENTION_NAME}")
_MLP = partial(_module, pattern=rf"^(?!.*(?:{_ATTENTION_NAME}|{_NEITHER}))")


def _spread(table: Table, count: int, rng: Draw, module: Rule, other: Rule) -> Table:
    """The module's tensors in evenly spread layers, near the size of all of the smaller module."""
    own = module(table, count, rng)
    wanted = min(parameters(own), parameters(other(table, count, rng)))
    layers = np.unique(own["layer"])
    choices = []
    for n in range(1, len(layers) + 1):
        kept = layers[((np.arange(n) + 0.5) * len(layers) / n).astype(int)]
        choices.append(own[own["layer"].isin(kept)])
    return min(choices, key=lambda chosen: abs(parameters(chosen) - wanted), default=own)


# Name → what is done, in words, and the rule.
ARMS: dict[str, tuple[str, Rule]] = {
    "selected": ("smallest κ of all", _LOWEST),
    "inverse": ("largest κ of all", _HIGHEST),
    "random": ("drawn uniformly", _random),
    "lowest_in_type": (
        "smallest κ within each module type, the same share of each",
        partial(_within_type, rule=_LOWEST),
    ),
    "highest_in_type": (
        "largest κ within each module type, the same share of each",
        partial(_within_type, rule=_HIGHEST),
    ),
    "lowest_input_kappa": (
        "smallest κ of WΣ_X^½, the tensor on its real input",
        partial(_ranked, column="input_kappa", ascending=True),
    ),
    "highest_input_kappa": (
        "largest κ of WΣ_X^½, the tensor on its real input",
        partial(_ranked, column="input_kappa", ascending=False),
    ),
    "random_like_selected": (
        "drawn at random with as many of each module type as the selected arm",
        _random_like_selected,
    ),
    "random_matched_size": (
        "drawn at random to as many parameters as the selected arm, within 1 %",
        partial(_matched_size, order=_random),
    ),
    "inverse_matched_size": (
        "largest κ to as many parameters as the selected arm, within 1 %",
        partial(_matched_size, order=_HIGHEST),
    ),
    "lower_of_neighbours": (
        "the smaller κ of each two neighbouring layers, within each module type",
        partial(_of_neighbours, place=0),
    ),
    "higher_of_neighbours": (
        "the larger κ of each two neighbouring layers, within each module type",
        partial(_of_neighbours, place=1),
    ),
    "mlp": ("every MLP matrix", _MLP),
    "attention": ("every attention matrix", _ATTENTION),
    "mlp_matched_size": (
        "every MLP matrix, or those of evenly spread layers to the size of the attention ones",
        partial(_spread, module=_MLP, other=_ATTENTION),
    ),
    "attention_matched_size": (
        "every attention matrix, or those of evenly spread layers to the size of the MLP ones",
        partial(_spread, module=_ATTENTION, other=_MLP),
    ),
    "value": ("every value matrix", partial(_module, pattern=r"[._]v(?:_proj)?\.")),
    "key": (
        "every key matrix, which has the shape of the value matrix beside it",
        partial(_module, pattern=r"[._]k(?:_proj)?\."),
    ),
    "all": ("every matrix", partial(_module, pattern="")),
    "adaptor_only": ("none: the adaptor alone is trained", lambda table, *_: table.iloc[:0]),
}
# Arms with a draw of their own for each seed of a run.
DRAWN = frozenset(arm for arm in ARMS if arm.startswith("random"))
