"""How two arms came out, seed by seed, and what differs between them beside κ.

An outcome is ``wer``, ``text`` (general-text loss) or ``kl`` at the last evaluation; ``text
german`` and the like, of one kind of text; or ``text at equal de_open`` and ``kl at equal
de_open``. An arm that learns faster has usually also forgotten more, so these compare forgetting
at equal learning: where both arms' paths pass the same held-out loss of a corpus. With a decaying
rate a path's end is annealed and its middle is not; runs to be matched keep the rate constant.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise, product

import numpy as np
import pandas as pd

from kappa_lib.evidence.runs import LANGUAGES, Runs
from kappa_lib.evidence.verdicts import (
    ENOUGH_SEEDS,
    NATS,
    NOT_REACHED,
    NOT_TESTABLE,
    POINTS,
    TOO_FEW,
    UNDECIDED,
    Decision,
    decide_difference,
    decisive,
)

Pair = tuple[str, str]
# Differences up to these count as none: share of the parameters and of the tensors' types, layers,
# nats per token of training loss.
ALIKE = {"parameters": 0.01, "types": 0.01, "layers": 1.0, "training loss": 0.05}
# What is worth comparing, from the paper's own comparison to those that leave less and less that
# differs beside κ.
PAIRS: tuple[Pair, ...] = (
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
    # The same function with another κ, at matched and at equal rates; the rate alone; a flip.
    *((arm, "selected") for arm in ("dose2_matched", "dose3_matched", "dose2", "dose3")),
    *((arm, "selected") for arm in ("rate2", "rate4", "flipped", "dose2_rms", "dose3_rms")),
    ("inverse_dose2_matched", "inverse"),
)
# Outcome → column, factor, unit.
ENDS = {"wer": ("wer_mean", 100, "points"), "text": ("text_loss", 1, "nats per token")}
ENDS["kl"] = ("kl", 1, "nats per token")


def pairs_of(runs: Runs) -> list[Pair]:
    """The pairs of which both arms were run."""
    ran = {arm for arm, _ in runs.folders}
    return [pair for pair in PAIRS if set(pair) <= ran]


def outcomes_of(runs: Runs) -> list[str]:
    """The outcomes at the end, and at equal loss of each language whose loss was kept."""
    kept = [c for c in LANGUAGES if f"heldout_{c}" in runs.evaluations]
    return [*ENDS, *(f"{cost} at equal {corpus}" for cost, corpus in product(("text", "kl"), kept))]


def texts_of(runs: Runs) -> list[str]:
    """The outcomes of each kind of general text; a mean hides where one gains and another loses.

    Empty where a run kept no kinds apart.
    """
    kinds = [c for c in runs.evaluations if c.startswith(("text_", "kl_")) and c != "text_loss"]
    return [column.replace("_", " ") for column in sorted(kinds, reverse=True)]


def name_of(pair: Pair) -> str:
    """``first − second``, as tables and figures show a pair."""
    return f"{pair[0]} − {pair[1]}"


def margin_of(outcome: str) -> float:
    """The smallest difference that matters: a point of WER, 0.01 nats per token of the others."""
    return POINTS if outcome == "wer" else NATS


# Outcome at the end → the smallest difference that matters.
MARGINS = {outcome: margin_of(outcome) for outcome in ENDS}


def differences(runs: Runs, pair: Pair, outcome: str) -> pd.Series:
    """Outcome of the first arm less that of the second, by ``seed``: of the seeds that both have.

    NaN where a run never came below the held-out loss that it began with; InputError for an
    outcome that was not measured.
    """
    cost, _, corpus = outcome.partition(" at equal ")
    if corpus:
        return _at_equal_loss(runs, pair, ENDS[cost][0], f"heldout_{corpus}")
    column, factor, _ = ENDS.get(outcome, (outcome.replace(" ", "_"), 1, ""))
    first, second = (runs.ends.loc[[arm]].set_index("seed")[column] for arm in pair)
    both = first.index.intersection(second.index).sort_values()
    return factor * (first.loc[both] - second.loc[both])


def _at_equal_loss(runs: Runs, pair: Pair, cost: str, learned: str) -> pd.Series:
    each = [runs.evaluations.query("arm == @arm").sort_values("step") for arm in pair]
    paths = [dict(list(rows.groupby("seed"))) for rows in each]
    both = sorted(set(paths[0]) & set(paths[1]))
    found = {s: at_equal_learning(*(path[s] for path in paths), learned, cost) for s in both}
    return pd.Series(found, dtype=float).rename_axis("seed")


def at_equal_learning(
    first: pd.DataFrame, second: pd.DataFrame, learned: str, cost: str = "text_loss"
) -> float:
    """Cost of the first run less that of the second, at the same held-out loss.

    The level is the best that both reached; between two evaluations a run's path is taken as
    straight in held-out loss and cost. A run's rows are its evaluations, in order; ``learned`` is
    the column of the held-out loss of one corpus, ``cost`` is ``text_loss`` or ``kl``.

    Returns:
        Nats per token; NaN where a run never came below the loss that it began with.
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


def decide(
    runs: Runs,
    pair: Pair,
    outcome: str,
    margin: float | None = None,
    seeds: Sequence[int] | None = None,
) -> Decision:
    """What the differences read, over the decisive seeds or those that are named.

    ``margin`` is by default that of :func:`margin_of`.
    """
    found = differences(runs, pair, outcome)
    kept, note = decisive(found.index.tolist())
    if seeds is not None:
        kept, note = [seed for seed in seeds if seed in found.index], ""
    values = found.loc[kept]
    if len(values) < ENOUGH_SEEDS:
        return Decision(NOT_TESTABLE, n=len(values), note=TOO_FEW)
    if values.isna().any():
        return Decision(UNDECIDED, n=len(values), note=NOT_REACHED)
    unit = ENDS[outcome.split()[0]][2]
    margin = margin_of(outcome) if margin is None else margin
    decision = decide_difference(values, np.zeros(len(values)), margin, unit)
    return decision.noting(note)


def compare(runs: Runs, pair: Pair, outcome: str) -> dict[str, str | float]:
    """One comparison: the first arm of ``pair`` less the second, within a seed, in one outcome.

    Returns:
        ``pair``, ``outcome``, ``n`` (seeds), ``mean``, ``low``, ``high`` (95 % t-interval),
        ``effect`` (d_z), ``p``, ``reading``: the first is ``lower`` or ``higher``, or there is
        ``no relevant difference``, or it is ``undecided``; without an interval ``too few seeds``
        or ``not reached`` (a loss that a run never came down to).
    """
    found, values = decide(runs, pair, outcome), differences(runs, pair, outcome)
    mean = values.loc[decisive(values.index.tolist())[0]].mean()
    low, high = found.interval or (math.nan, math.nan)
    effect, p = (math.nan if x is None else x for x in (found.effect, found.p))
    row = {"pair": name_of(pair), "outcome": outcome, "n": found.n, "mean": mean}
    row |= {"low": low, "high": high, "effect": effect, "p": p}
    return row | {"reading": found.verdict if found.interval else found.note}


def comparisons(
    runs: Runs, pairs: Iterable[Pair] | None = None, outcomes: Iterable[str] | None = None
) -> pd.DataFrame:
    """One row of :func:`compare` for every pair and outcome; by default all that there are."""
    each = product(pairs or pairs_of(runs), list(outcomes or outcomes_of(runs)))
    columns = ["pair", "outcome", "n", "mean", "low", "high", "effect", "p", "reading"]
    return pd.DataFrame([compare(runs, *of) for of in each], columns=columns)


def seed_by_seed(
    runs: Runs, pairs: Iterable[Pair] | None = None, outcomes: Iterable[str] | None = None
) -> pd.DataFrame:
    """The same before it is summed up: rows of ``pair``, ``seed``, ``outcome``, ``difference``."""
    rows, outcomes = [], list(outcomes or outcomes_of(runs))
    for pair in pairs or pairs_of(runs):
        wide = pd.DataFrame({outcome: differences(runs, pair, outcome) for outcome in outcomes})
        for seed, found in wide.iterrows():
            rows += [(name_of(pair), seed, outcome, found[outcome]) for outcome in outcomes]
    return pd.DataFrame(rows, columns=["pair", "seed", "outcome", "difference"])


def contrasts(runs: Runs) -> pd.DataFrame:
    """How far apart the selections of each pair are that trains tensors.

    Returns:
        One row per pair: ``kappa`` (geometric mean κ of the first over that of the second),
        ``parameters`` (first over second), ``types`` (share of tensors whose module type has no
        counterpart in the other arm: 0 the same types, 1 none in common), ``layer`` (mean layer
        of the first less that of the second), ``tensors`` (share that both train).
    """
    table, rows = runs.trained.join(np.log(runs.kappa[["kappa"]]), on="tensor"), {}
    for pair in pairs_of(runs):
        first, second = (table[table["arm"] == arm] for arm in pair)
        if first.empty or second.empty:
            continue
        both = set(first["tensor"]) & set(second["tensor"])
        rows[name_of(pair)] = {
            "kappa": float(np.exp(first["kappa"].mean() - second["kappa"].mean())),
            "parameters": runs.arms["parameters"][pair[0]] / runs.arms["parameters"][pair[1]],
            "types": types_apart(runs, pair),
            "layer": float(first["layer"].mean() - second["layer"].mean()),
            "tensors": len(both) / max(len(first), len(second)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def types_apart(runs: Runs, pair: Pair) -> float:
    """Share of tensors whose module type has no counterpart in the other arm."""
    kinds = runs.trained.groupby("arm")["type"]
    first, second = (kinds.get_group(arm).value_counts(normalize=True) for arm in pair)
    return float(first.sub(second, fill_value=0.0).abs().sum() / 2)


def unlike(runs: Runs, pair: Pair, held: Iterable[str]) -> dict[str, str]:
    """What differs between two arms of the things that are to be ``held`` equal; empty if nothing.

    These are ``parameters``, ``types``, ``layers`` (the mean depth of each common type),
    ``training loss`` (at the end, seed by seed) and ``draws`` (a random arm is drawn anew for
    each seed). Each is given with what it is of the first arm, beside the second.
    """
    found = {name: _CONFOUNDERS[name](runs, pair) for name in held}
    return {name: told for name, told in found.items() if told}


def _parameters(runs: Runs, pair: Pair) -> str:
    first, second = runs.arms["parameters"].loc[list(pair)]
    apart = abs(first - second) > ALIKE["parameters"] * max(first, second)
    return f"× {first / second:.2f}" if apart else ""


def _types(runs: Runs, pair: Pair) -> str:
    apart = types_apart(runs, pair)
    return f"{100 * apart:.0f} % others" if apart > ALIKE["types"] else ""


def _layers(runs: Runs, pair: Pair) -> str:
    depth = runs.trained.groupby(["arm", "type"])["layer"].mean()
    apart = (depth[pair[0]] - depth[pair[1]]).dropna()
    if apart.empty or apart.abs().max() <= ALIKE["layers"]:
        return ""
    kind = apart.abs().idxmax()
    return f"{kind} {apart[kind]:+.1f}"


def _training_loss(runs: Runs, pair: Pair) -> str:
    apart = differences(runs, pair, "train_loss")
    widest = apart.loc[decisive(apart.index.tolist())[0]].abs().max()
    return f"up to {widest:.2f} nats apart" if widest >= ALIKE["training loss"] else ""


def _draws(runs: Runs, pair: Pair) -> str:
    configs = runs.configs(pair[1])
    draws = len({config["tensors"] for config in configs})
    return f"{draws} for {len(configs)} seeds" if draws < len(configs) else ""


_CONFOUNDERS = {
    "parameters": _parameters,
    "types": _types,
    "layers": _layers,
    "training loss": _training_loss,
    "draws": _draws,
}
