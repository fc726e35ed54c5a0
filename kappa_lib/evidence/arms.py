"""What an arm's runs measured, as rules read it; how two arms differ beside κ; how each fared.

An arm that learns faster has usually also forgotten more, so forgetting is also compared at equal
learning: where both arms' paths pass the same held-out loss of a corpus. With a decaying rate a
path's end is annealed and its middle is not; runs that are to be matched keep the rate constant.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib.evidence import tables
from kappa_lib.evidence.verdicts import (
    ENOUGH_SEEDS,
    FAILS,
    HOLDS,
    NATS,
    POINTS,
    SAME,
    UNDECIDED,
    decide_difference,
    decisive,
)
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.kappa_table import layer_of
from kappa_lib.spectra.selection import Selection, of_run, select
from kappa_lib.training.checkpoints import run_folder
from kappa_lib.weights import sizes

# Arms that differ in κ within module types, from those that are also alike in depth.
ALIKE_ARMS = (
    ("lower_of_neighbours", "higher_of_neighbours"),
    ("lowest_in_type", "highest_in_type"),
)
# Differences up to these count as none: share of the parameters and of the tensors' types, layers.
ALIKE = {"parameters": 0.01, "types": 0.01, "layers": 1.0}
# What is worth comparing, from the paper's own comparison to those that leave less and less that
# differs beside κ.
PAIRS = (
    ("selected", "inverse"),
    ("selected", "random_matched_size"),
    ("selected", "inverse_matched_size"),
    ("selected", "random_like_selected"),
    ("random_like_inverse", "inverse"),
    ("attention_matched_size", "mlp_matched_size"),
    ("value", "key"),
    ("mlp", "mlp_matched_size"),
    ("lowest_input_kappa", "highest_input_kappa"),
    ("lowest_in_type", "highest_in_type"),
    ("lower_of_neighbours", "higher_of_neighbours"),
    ("selected", "all"),
    ("selected", "random"),
)
# Outcome → what it is called, and its unit.
OUTCOMES = {
    "wer": ("WER", "points"),
    "text": ("general-text loss", "nats a token"),
    "kl": ("KL", "nats a token"),
}
COLUMNS = ["pair", "seed", "outcome", "difference"]
READINGS = {HOLDS: "first lower", FAILS: "second lower", SAME: SAME, UNDECIDED: UNDECIDED}


def measured(profile: Profile, table: pd.DataFrame, arm: str) -> dict[str, Any]:
    """One arm of a table of results in plain numbers; empty where it was not run.

    Returns:
        ``seeds``; per seed ``wer`` (curve of the languages' mean, fractions), ``text`` (rise of
        general-text loss) and ``kl`` at the last evaluation, nats a token, and ``train_loss``
        before it; ``corpora`` (corpus → last WER per seed); ``parameters``, ``types`` (type →
        share of tensors), ``layers`` (type → mean); ``draws`` (how many different selections the
        seeds had); ``disruption`` (:func:`kappa_lib.evidence.tables.disruption`, a seed each, where
        spectra were kept).
    """
    rows = table[table["arm"] == arm].sort_values(["seed", "step"])
    if rows.empty:
        return {}
    runs = rows.groupby("seed")
    first, last = runs.head(1), runs.tail(1)
    seeds = last["seed"].tolist()
    corpora = [
        c for c in rows if c.startswith("wer_") and c != "wer_mean" and rows[c].notna().all()
    ]
    configs = [read_json(run_folder(profile, arm, seed) / "config.json") for seed in seeds]
    changes = [tables.disruption(profile, arm, seed) for seed in seeds]
    return {
        "seeds": seeds,
        "wer": [run["wer_mean"].tolist() for _, run in runs],
        "text": (last["text_loss"].to_numpy() - first["text_loss"].to_numpy()).tolist(),
        "kl": last["kl"].tolist(),
        "train_loss": last["train_loss"].tolist(),
        "corpora": {c.removeprefix("wer_"): last[c].tolist() for c in corpora},
        **trained(profile)[arm],
        "draws": len({config["tensors"] for config in configs}),
        "disruption": [] if None in changes else changes,
    }


def trained(profile: Profile) -> dict[str, dict[str, Any]]:
    """Arm → ``parameters``, ``types`` and ``layers`` of what it trains, see :func:`measured`."""
    arms, found = {arm: of_run(profile, arm) for arm in profile.arms}, {}
    types = tables.module_types(arms.values())
    for arm, chosen in arms.items():
        kinds = [types[name] for name in chosen.tensors]
        layers = pd.Series([layer_of(name) for name in chosen.tensors], dtype=float)
        found[arm] = {
            "parameters": chosen.parameters,
            "types": pd.Series(kinds).value_counts(normalize=True).sort_index().to_dict(),
            "layers": layers.groupby(kinds).mean().to_dict(),
        }
    return found


def alike_arms(arms: Sequence[str]) -> tuple[str, str]:
    """The pair of a profile's arms that differs in least beside κ, lower κ first."""
    return next((pair for pair in ALIKE_ARMS if set(pair) <= set(arms)), ALIKE_ARMS[-1])


def unlike(
    first: dict[str, Any], second: dict[str, Any], held: tuple[str, ...] = ("parameters", "types")
) -> list[str]:
    """What differs between two measured arms beside κ, in words; empty where nothing held does.

    ``held`` is which of ``parameters``, ``types``, ``layers`` must be alike. An arm that was not
    run differs in nothing.
    """
    found: list[str] = []
    if not first or not second:
        return found
    smaller, larger = sorted((first["parameters"], second["parameters"]))
    if "parameters" in held and larger - smaller > ALIKE["parameters"] * larger:
        found.append(f"{first['parameters'] / second['parameters']:.2f} × the parameters")
    a, b = first["types"], second["types"]
    apart = sum(abs(a.get(kind, 0.0) - b.get(kind, 0.0)) for kind in {*a, *b}) / 2
    if "types" in held and apart > ALIKE["types"]:
        found.append(f"{100 * apart:.0f} % other module types")
    common = {k: first["layers"][k] - second["layers"][k] for k in a if k in second["layers"]}
    kind = max(common, key=lambda k: abs(common[k]), default="")
    if "layers" in held and kind and abs(common[kind]) > ALIKE["layers"]:
        side = "higher" if common[kind] > 0 else "lower"
        found.append(f"its {kind} {abs(common[kind]):.1f} layers {side}")
    return found


def reversed_sizes(selected: int, inverse: int) -> str:
    """The sentence on how many parameters the two arms train, here and by the paper's shapes."""
    table = kappa_table.null_table(*sizes.llama_layer("meta-llama/Llama-3.1-8B-Instruct"))
    paper = [select(table, arm, 100).parameters / 1e9 for arm in ("selected", "inverse")]
    return (
        f"`selected` trains {selected / inverse:.2f} × the parameters of `inverse` here; shapes"
        f" alone, as in a model with random weights, would give Llama-3-8B {paper[0]:.2f} and"
        f" {paper[1]:.2f} billion, and what its trained weights give is not measured here"
    )


def present(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of which both arms are there."""
    return [pair for pair in PAIRS if set(pair) <= set(arms)]


def name_of(pair: tuple[str, str]) -> str:
    """``first − second``, as tables and figures show a pair."""
    return f"{pair[0]} − {pair[1]}"


def differences(arms: dict[str, Selection], kappa: pd.DataFrame) -> pd.DataFrame:
    """How far apart the two selections of each pair are, which were made from the table ``kappa``.

    Returns:
        A row a pair of arms that train tensors: ``kappa`` (geometric mean κ of the first over that
        of the second), ``parameters`` (first over second), ``types`` (share of tensors whose module
        type has no counterpart in the other arm: 0 the same types, 1 none in common), ``layer``
        (mean layer of the first less that of the second), ``tensors`` (share that both train).
    """
    table = kappa.set_index("tensor")
    rows = {}
    for pair in present([name for name, chosen in arms.items() if chosen.tensors]):
        first, second = (table.loc[arms[name].tensors] for name in pair)
        a, b = (rows["type"].value_counts(normalize=True) for rows in (first, second))
        both = set(first.index) & set(second.index)
        rows[name_of(pair)] = {
            "kappa": float(np.exp(np.log(first["kappa"]).mean() - np.log(second["kappa"]).mean())),
            "parameters": arms[pair[0]].parameters / arms[pair[1]].parameters,
            "types": a.sub(b, fill_value=0.0).abs().sum() / 2,
            "layer": float(first["layer"].mean() - second["layer"].mean()),
            "tensors": len(both) / max(len(first), len(second)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def outcomes(results: pd.DataFrame) -> pd.DataFrame:
    """Differences between the arms of each pair at the last evaluation of a table of results.

    Returns:
        A row a ``pair``, ``seed`` and ``outcome`` with its ``difference``, first less second:
        ``wer``, of the mean word error rates, in points; ``text`` and ``kl``, of general-text
        loss and KL from the base model, nats a token; and, where the held-out loss of a spoken
        language was kept, ``text at equal <corpus>`` and ``kl at equal <corpus>``
        (:func:`at_equal_learning`). Negative means that the first arm did better.
    """
    corpora = [c for c in tables.LANGUAGES if f"heldout_{c}" in results]
    rows = []
    for pair, seed, first, second in _paths(results):
        a, b = first.iloc[-1], second.iloc[-1]
        found = {
            "wer": 100 * (a["wer_mean"] - b["wer_mean"]),
            "text": a["text_loss"] - b["text_loss"],
            "kl": a["kl"] - b["kl"],
        }
        for name, corpus in product(("text_loss", "kl"), corpora):
            label = f"{name.removesuffix('_loss')} at equal {corpus}"
            found[label] = at_equal_learning(first, second, f"heldout_{corpus}", name)
        rows += [(pair, seed, *item) for item in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def outcomes_by_text(results: pd.DataFrame) -> pd.DataFrame:
    """As :func:`outcomes`, of each kind of general text by itself: ``text <kind>``, ``kl <kind>``.

    A mean over kinds hides where an arm gains on one and loses on another. Empty where a run kept
    no kinds apart.
    """
    kept = [c for c in results if c.startswith(("text_", "kl_")) and c != "text_loss"]
    rows = [
        (pair, seed, column.replace("_", " "), first[column].iloc[-1] - second[column].iloc[-1])
        for pair, seed, first, second in _paths(results)
        for column in sorted(kept, reverse=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _paths(results: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Name of each pair, each seed that both arms have, and their evaluations in order."""
    for pair in present(results["arm"].unique().tolist()):
        paths = [results[results["arm"] == name] for name in pair]
        for seed in sorted(set(paths[0]["seed"]) & set(paths[1]["seed"])):
            first, second = (p[p["seed"] == seed].sort_values("step") for p in paths)
            yield name_of(pair), seed, first, second


def at_equal_learning(
    first: pd.DataFrame, second: pd.DataFrame, learned: str, cost: str = "text_loss"
) -> float:
    """Cost of the first run less that of the second, at the same held-out loss.

    The level is the best that both reached; between two evaluations a run's path is taken as
    straight in held-out loss and cost. A run's rows are its evaluations, in order; ``learned`` is
    the column of the held-out loss of one corpus, ``cost`` is ``text_loss`` or ``kl``.

    Returns:
        Nats a token; NaN where a run never came below the loss that it began with.
    """
    level, costs = max(first[learned].min(), second[learned].min()), []
    for run in (first, second):
        found = math.nan
        steps = zip(pairwise(run[learned].tolist()), pairwise(run[cost].tolist()), strict=True)
        for (a, b), (x, y) in steps:
            if a >= level >= b and a > b:  # where the loss first comes down to the level
                found = x + (y - x) * (a - level) / (a - b)
                break
        costs.append(found)
    return costs[0] - costs[1]


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t-interval of each of the :func:`outcomes` over the decisive seeds.

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
        if len(values) < ENOUGH_SEEDS:
            row["reading"] = "too few seeds"
        elif values.isna().any():
            row["reading"] = "not reached"
        else:
            decision = decide_difference(values, [0.0] * len(values), margin_of(outcome))
            row["low"], row["high"] = decision.interval
            row["effect"], row["p"] = decision.effect, decision.p
            row["reading"] = READINGS[decision.verdict]
        rows.append(row)
    columns = ["pair", "outcome", "seeds", "mean", "low", "high", "effect", "p", "reading"]
    return pd.DataFrame(rows, columns=columns)


def margin_of(outcome: str) -> float:
    """The smallest difference that matters: a point of WER, 0.01 nats a token of the others."""
    return POINTS if outcome == "wer" else NATS
