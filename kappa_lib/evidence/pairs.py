"""Two arms against each other: what differs between them, and how each fared, seed by seed.

An arm that learns faster has usually also forgotten more, so forgetting is also compared at equal
learning: where both arms' paths pass the same held-out loss of a corpus. With a decaying rate a
path's end is annealed and its middle is not; runs that are to be matched keep the rate constant.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pandas as pd

from kappa_lib.evidence.arms import decisive
from kappa_lib.evidence.statistics import ENOUGH_SEEDS, NATS, POINTS, decide_difference
from kappa_lib.evidence.tables import LANGUAGES
from kappa_lib.evidence.verdicts import FAILS, HOLDS, SAME, UNDECIDED
from kappa_lib.spectra.selection import Selection

# What is worth comparing, from the paper's own comparison to those that leave less and less that
# differs beside κ.
PAIRS = (
    ("selected", "inverse"),
    ("selected", "random_matched_size"),
    ("selected", "inverse_matched_size"),
    ("selected", "random_like_selected"),
    ("random_like_inverse", "inverse"),
    ("attention_matched_size", "mlp_matched_size"),
    ("lowest_in_type", "highest_in_type"),
    ("lower_of_neighbours", "higher_of_neighbours"),
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
    """Differences between the arms of each pair at the last evaluation.

    Args:
        results: table of :func:`kappa_lib.evidence.tables.results`.

    Returns:
        A row a ``pair``, ``seed`` and ``outcome`` with its ``difference``, first less second:
        ``wer``, of the mean word error rates, in points; ``text`` and ``kl``, of general-text
        loss and KL from the base model, nats a token; and, where the held-out loss of a spoken
        language was kept, ``text at equal <corpus>`` and ``kl at equal <corpus>``
        (:func:`at_equal_learning`). Negative means that the first arm did better.
    """
    corpora = [c for c in LANGUAGES if f"heldout_{c}" in results]
    rows = []
    for pair in present(results["arm"].unique().tolist()):
        paths = [results[results["arm"] == name] for name in pair]
        for seed in sorted(set(paths[0]["seed"]) & set(paths[1]["seed"])):
            first, second = (p[p["seed"] == seed].sort_values("step") for p in paths)
            a, b = first.iloc[-1], second.iloc[-1]
            found = {
                "wer": 100 * (a["wer_mean"] - b["wer_mean"]),
                "text": a["text_loss"] - b["text_loss"],
                "kl": a["kl"] - b["kl"],
            }
            for name, corpus in product(("text_loss", "kl"), corpora):
                label = f"{name.removesuffix('_loss')} at equal {corpus}"
                found[label] = at_equal_learning(first, second, f"heldout_{corpus}", name)
            rows += [(name_of(pair), seed, *item) for item in found.items()]
    return pd.DataFrame(rows, columns=["pair", "seed", "outcome", "difference"])


def at_equal_learning(
    first: pd.DataFrame, second: pd.DataFrame, learned: str, cost: str = "text_loss"
) -> float:
    """Cost of the first run less that of the second, at the same held-out loss.

    The level is the best that both reached; between two evaluations a run's path is taken as
    straight in held-out loss and cost.

    Args:
        first: evaluations of a run, in order.
        second: those of another.
        learned: column of the held-out loss of one corpus.
        cost: column of what it cost, ``text_loss`` or ``kl``.

    Returns:
        Nats a token; NaN where a run never came below the loss that it began with.
    """
    level = max(first[learned].min(), second[learned].min())
    costs = [_passing(run[learned].tolist(), run[cost].tolist(), level) for run in (first, second)]
    return costs[0] - costs[1]


def _passing(learned: Sequence[float], cost: Sequence[float], level: float) -> float:
    """The cost where the held-out loss first comes down to ``level``."""
    for (a, b), (x, y) in zip(pairwise(learned), pairwise(cost), strict=True):
        if a >= level >= b and a > b:
            return x + (y - x) * (a - level) / (a - b)
    return math.nan


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t-interval of each outcome over the decisive seeds, and what they say.

    Args:
        found: of :func:`outcomes`.

    Returns:
        A row a ``pair`` and ``outcome``: ``seeds``, ``mean``, ``low``, ``high``, ``effect``
        (d_z), ``p``, and ``reading``: ``first lower``, ``second lower``, ``no relevant
        difference``, ``undecided``, or, without an interval, ``too few seeds`` or ``not
        reached`` (a loss that a run never came down to).
    """
    rows = []
    for (pair, outcome), group in found.groupby(["pair", "outcome"], sort=False):
        kept, _ = decisive(group["seed"].tolist())
        values = group.loc[group["seed"].isin(kept), "difference"]
        row = {"pair": pair, "outcome": outcome, "seeds": len(values), "mean": values.mean()}
        if values.isna().any() or len(values) < ENOUGH_SEEDS:
            few = len(values) < ENOUGH_SEEDS
            rows.append(row | {"reading": "too few seeds" if few else "not reached"})
            continue
        decision = decide_difference(values, [0.0] * len(values), margin_of(outcome))
        low, high = decision.interval
        told = {"effect": decision.effect, "p": decision.p, "reading": READINGS[decision.verdict]}
        rows.append(row | {"low": low, "high": high} | told)
    columns = ["pair", "outcome", "seeds", "mean", "low", "high", "effect", "p", "reading"]
    return pd.DataFrame(rows, columns=columns)


READINGS = {HOLDS: "first lower", FAILS: "second lower", SAME: SAME, UNDECIDED: UNDECIDED}


def margin_of(outcome: str) -> float:
    """The smallest difference that matters: a point of WER, 0.01 nats a token of the others."""
    return POINTS if outcome == "wer" else NATS
