"""Two arms against each other: what differs between them, and how each fared, seed by seed.

An arm that learns faster has usually also forgotten more, so forgetting is compared at equal
learning: where both arms' paths pass the same held-out loss.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from kappa_lib.spectra.selection import Selection

# What is worth comparing, from the paper's own comparison to those that leave less and less that
# differs beside κ.
PAIRS = (
    ("selected", "inverse"),
    ("selected", "random_matched_size"),
    ("selected", "inverse_matched_size"),
    ("selected", "random_like_selected"),
    ("random_like_inverse", "inverse"),
    ("lowest_in_type", "highest_in_type"),
)


def present(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of which both arms are there."""
    return [pair for pair in PAIRS if set(pair) <= set(arms)]


def differences(arms: dict[str, Selection], kappa: pd.DataFrame) -> pd.DataFrame:
    """How far apart the two selections of each pair are.

    Args:
        arms: selections by name.
        kappa: the κ table that they were made from.

    Returns:
        A row a pair: ``kappa`` (geometric mean κ of the first over that of the second),
        ``parameters`` (first over second), ``types`` (share of tensors whose module type has no
        counterpart in the other arm: 0 the same types, 1 none in common), ``layer`` (mean layer of
        the first less that of the second), ``tensors`` (share that both train).
    """
    table = kappa.set_index("tensor")
    rows = {}
    for pair in present(list(arms)):
        first, second = (table.loc[arms[name].tensors] for name in pair)
        shares = pd.DataFrame(
            {
                side: rows["type"].value_counts(normalize=True)
                for side, rows in zip("ab", (first, second), strict=True)
            }
        ).fillna(0.0)
        both = set(first.index) & set(second.index)
        rows[name_of(pair)] = {
            "kappa": float(np.exp(np.log(first["kappa"]).mean() - np.log(second["kappa"]).mean())),
            "parameters": arms[pair[0]].parameters / arms[pair[1]].parameters,
            "types": (shares["a"] - shares["b"]).abs().sum() / 2,
            "layer": float(first["layer"].mean() - second["layer"].mean()),
            "tensors": len(both) / max(len(first), len(second)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def name_of(pair: tuple[str, str]) -> str:
    """``first − second``, as tables and figures show a pair."""
    return f"{pair[0]} − {pair[1]}"


def outcomes(results: pd.DataFrame) -> pd.DataFrame:
    """Differences between the arms of each pair, a row a pair and seed.

    Args:
        results: table of :func:`kappa_lib.evidence.tables.results`.

    Returns:
        ``pair``, ``seed``; ``wer``: difference of the last mean word error rates, in points;
        ``text``: of the last general-text losses; ``text_at_equal``: of the general-text losses
        where both pass the same held-out loss (:func:`at_equal_learning`), in nats a token.
        Negative means that the first arm did better.
    """
    rows = []
    for pair in present(results["arm"].unique().tolist()):
        paths = [results[results["arm"] == name] for name in pair]
        for seed in sorted(set(paths[0]["seed"]) & set(paths[1]["seed"])):
            first, second = (p[p["seed"] == seed].sort_values("step") for p in paths)
            ends = first.iloc[-1], second.iloc[-1]
            rows.append(
                {
                    "pair": name_of(pair),
                    "seed": seed,
                    "wer": 100 * (ends[0]["wer_mean"] - ends[1]["wer_mean"]),
                    "text": ends[0]["text_loss"] - ends[1]["text_loss"],
                    "text_at_equal": at_equal_learning(first, second),
                }
            )
    return pd.DataFrame(rows)


def at_equal_learning(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """General-text loss of the first run less that of the second, at the same held-out loss.

    The level is the best that both reached; between two evaluations a run's path is taken as
    straight in held-out loss and text loss.

    Args:
        first: evaluations of a run, in order: ``heldout_loss``, ``text_loss``.
        second: those of another.

    Returns:
        Nats a token; NaN where a run never came below the loss that it began with.
    """
    level = max(first["heldout_loss"].min(), second["heldout_loss"].min())
    costs = [
        _passing(run["heldout_loss"].tolist(), run["text_loss"].tolist(), level)
        for run in (first, second)
    ]
    return costs[0] - costs[1]


def _passing(learned: Sequence[float], cost: Sequence[float], level: float) -> float:
    """The cost where the held-out loss first comes down to ``level``."""
    for (a, b), (x, y) in zip(pairwise(learned), pairwise(cost), strict=True):
        if a >= level >= b and a > b:
            return x + (y - x) * (a - level) / (a - b)
    return math.nan


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest of each outcome over seeds, and whether all seeds agree.

    Args:
        found: of :func:`outcomes`.

    Returns:
        A row a pair and outcome: ``seeds``, ``mean``, ``lowest``, ``highest``, ``agree``: which
        arm every seed favours, ``first`` or ``second``, ``no`` where they differ, and
        ``one seed`` where there is nothing to agree.
    """
    long = found.melt(["pair", "seed"], var_name="outcome", value_name="difference")
    grouped = long.groupby(["pair", "outcome"], sort=False)["difference"]
    table = grouped.agg(seeds="size", mean="mean", lowest="min", highest="max").reset_index()
    better = np.where(table["highest"] < 0, "first", "no")
    agree = np.where(table["lowest"] > 0, "second", better)
    table["agree"] = np.where(table["seeds"] == 1, "one seed", agree)
    return table
