"""How two arms came out, seed by seed, and what differs between them beside κ.

An outcome is ``wer``, ``text`` (general-text loss) or ``kl`` at the last evaluation; ``wer
de_open`` or ``text german``, of one corpus or kind of text; or ``kl at equal de_open`` and the
like. An arm that learns faster has usually also forgotten more, so these last compare forgetting
at equal learning: where both arms' paths pass the same held-out loss of a corpus. With a decaying
rate a path's end is annealed and its middle is not; runs to be matched keep the rate constant.
"""

import math
from collections.abc import Iterable
from itertools import pairwise, product

import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.evidence import verdicts
from kappa_lib.evidence.runs import LANGUAGES, Runs
from kappa_lib.evidence.verdicts import Decision, Verdict, decide_difference, decisive

Pair = tuple[str, str]
# Differences up to these count as none: share of the parameters and of the tensors' types, layers,
# nats per token of training loss, seeds without a draw of their own.
ALIKE = {"parameters": 0.01, "types": 0.01, "layers": 1.0, "training loss": 0.05, "draws": 0}
# Arms of the same types and sizes, which differ in κ.
MATCHED: tuple[Pair, ...] = (
    ("lower_of_neighbours", "higher_of_neighbours"),
    ("lowest_in_type", "highest_in_type"),
)
# What is worth comparing, from the paper's own comparison to those that leave less and less that
# differs beside κ.
PAIRS: tuple[Pair, ...] = (
    ("selected", "inverse"),
    ("selected", "random_matched_size"),
    ("selected", "inverse_matched_size"),
    ("selected", "random_like_selected"),
    ("attention_matched_size", "mlp_matched_size"),
    ("value", "key"),
    ("mlp", "mlp_matched_size"),
    ("lowest_input_kappa", "highest_input_kappa"),
    *MATCHED[::-1],
    ("selected", "all"),
    ("selected", "random"),
    ("peft_default", "peft_all"),
    # The same function with another κ, at matched and at equal rates; the rate alone; a flip.
    *((arm, "selected") for arm in ("dose2_matched", "dose3_matched", "dose2", "dose3")),
    *((arm, "selected") for arm in ("rate2", "rate4", "flipped", "dose2_rms", "dose3_rms")),
    ("inverse_dose2_matched", "inverse"),
)
# Outcome → column, unit; and the smallest difference that matters, also of its kinds.
ENDS = {"wer": ("wer_mean", "points"), "text": ("text_loss", "nats per token")}
ENDS["kl"] = ("kl", "nats per token")
MARGINS = {"wer": verdicts.POINTS, "text": verdicts.NATS, "kl": verdicts.NATS}


def pairs_of(runs: Runs, among: Iterable[Pair] = PAIRS) -> list[Pair]:
    """The pairs of which both arms were run."""
    return [pair for pair in among if set(pair) <= set(runs.ran)]


def outcomes_of(runs: Runs) -> list[str]:
    """The outcomes at the end, and at equal loss of each language whose loss was kept."""
    kept = [c for c in LANGUAGES if f"heldout_{c}" in runs.evaluations]
    return [*ENDS, *(f"{cost} at equal {corpus}" for cost, corpus in product(("text", "kl"), kept))]


def texts_of(runs: Runs) -> list[str]:
    """The outcomes of each kind of general text, if a run kept them apart: a mean hides where one
    gains and another loses."""
    kinds = [c for c in runs.evaluations if c.startswith(("text_", "kl_")) and c != "text_loss"]
    return [column.replace("_", " ") for column in sorted(kinds, reverse=True)]


def name_of(pair: Pair) -> str:
    """``first − second``, as tables and figures show a pair."""
    return f"{pair[0]} − {pair[1]}"


def differences(runs: Runs, pair: Pair, outcome: str) -> pd.Series:
    """Outcome of the first arm less that of the second, by ``seed``: of the seeds that both have.

    NaN where a run never came below the held-out loss that it began with; InputError for an
    outcome that was not measured, or an arm that was not run.
    """
    cost, _, corpus = outcome.partition(" at equal ")
    column = ENDS[cost][0] if cost in ENDS else cost.replace(" ", "_")
    columns = [column, f"heldout_{corpus}"] if corpus else [column]
    lacking = [arm for arm in pair if arm not in runs.ran]
    lacking += [name for name in columns if name not in runs.evaluations]
    if lacking:
        what = f"{outcome!r} of {name_of(pair)}: the runs have no {', '.join(lacking)}"
        raise InputError(what, "see their `ran`, and the columns of their `evaluations`")
    paths = dict(list(runs.evaluations.sort_values("step").groupby(["arm", "seed"])))
    both = sorted(seed for arm, seed in paths if arm == pair[0] and (pair[1], seed) in paths)
    each = {seed: [paths[arm, seed] for arm in pair] for seed in both}
    if corpus:
        found = {seed: at_equal_learning(*of, columns[1], column) for seed, of in each.items()}
    else:
        found = {s: a[column].iloc[-1] - b[column].iloc[-1] for s, (a, b) in each.items()}
    factor = 100 if cost.startswith("wer") else 1  # points
    return factor * pd.Series(found, dtype=float).rename_axis("seed")


def at_equal_learning(
    first: pd.DataFrame, second: pd.DataFrame, learned: str, cost: str = "text_loss"
) -> float:
    """Cost of the first run less that of the second, at the same held-out loss; NaN where a run
    never came below the loss that it began with.

    The level is the best that both reached; between two evaluations a run's path is taken as
    straight in held-out loss and cost. A run's rows are its evaluations, in order; ``learned`` is
    the column of the held-out loss of one corpus, ``cost`` any other.
    """
    level = max(first[learned].min(), second[learned].min())

    def cost_there(run: pd.DataFrame) -> float:
        """Where its loss first comes down to the level."""
        steps = zip(pairwise(run[learned]), pairwise(run[cost]), strict=True)
        for (a, b), (x, y) in steps:
            if a >= level >= b and a > b:
                return x + (y - x) * (a - level) / (a - b)
        return math.nan

    return cost_there(first) - cost_there(second)


def decide(runs: Runs, pair: Pair, outcome: str, margin: float | None = None) -> Decision:
    """What the differences of the decisive seeds read; ``margin`` is by default of ``MARGINS``."""
    (values, note), of = decisive(differences(runs, pair, outcome)), outcome.split()[0]
    if len(values) >= verdicts.ENOUGH_SEEDS and values.isna().any():
        return Decision(Verdict.UNDECIDED, n=len(values), note=verdicts.NOT_REACHED)
    found = decide_difference(values, MARGINS[of] if margin is None else margin, ENDS[of][1])
    return found.noting(note) if found.interval else found


def compare(runs: Runs, pair: Pair, outcome: str) -> dict[str, str | float]:
    """One comparison: the first arm of ``pair`` less the second, within a seed, in one outcome.

    Returns:
        ``pair``, ``outcome``, ``n`` (seeds), ``mean``, ``low``, ``high`` (95 % t-interval),
        ``effect`` (d_z), ``p``, ``reading``: the first is ``lower`` or ``higher``, or there is
        ``no relevant difference``, or it is ``undecided``; without an interval ``too few seeds``
        or ``not reached`` (a loss that a run never came down to).
    """
    found = decide(runs, pair, outcome)
    mean = decisive(differences(runs, pair, outcome))[0].mean()
    low, high = found.interval or (math.nan, math.nan)
    effect, p = (math.nan if x is None else x for x in (found.effect, found.p))
    row = {"pair": name_of(pair), "outcome": outcome, "n": found.n, "mean": mean}
    row |= {"low": low, "high": high, "effect": effect, "p": p}
    return row | {"reading": str(found.verdict if found.interval else found.note)}


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
    each = product(pairs or pairs_of(runs), list(outcomes or outcomes_of(runs)))
    rows = [
        (name_of(pair), seed, outcome, difference)
        for pair, outcome in each
        for seed, difference in differences(runs, pair, outcome).items()
    ]
    return pd.DataFrame(rows, columns=["pair", "seed", "outcome", "difference"])


def unlike(runs: Runs, pair: Pair, held: Iterable[str]) -> dict[str, str]:
    """What differs between two arms of the things that are to be ``held`` equal, → how.

    These are ``parameters``, ``types``, ``layers`` (the mean depth of each common type),
    ``training loss`` (at the end, seed by seed) and ``draws`` (of a random arm, one a seed).
    """
    each = {thing: _apart(runs, pair, thing) for thing in held}
    return {thing: words for thing, (size, words) in each.items() if size > ALIKE[thing]}


def _apart(runs: Runs, pair: Pair, thing: str) -> tuple[float, str]:
    """How far two arms are apart, in the measure of ``ALIKE`` and as it is shown."""
    if thing == "parameters":
        first, second = runs.arms["parameters"].loc[list(pair)]
        return abs(first - second) / max(first, second), f"× {first / second:.2f}"
    if thing == "types":
        kinds = runs.trained.groupby("arm")["type"]
        first, second = (kinds.get_group(arm).value_counts(normalize=True) for arm in pair)
        # Of tensors whose type has no counterpart in the other arm.
        share = float(first.sub(second, fill_value=0.0).abs().sum() / 2)
        return share, f"{100 * share:.0f} % others"
    if thing == "layers":
        depth = runs.trained.groupby(["arm", "type"])["layer"].mean()
        apart = (depth[pair[0]] - depth[pair[1]]).dropna()
        kind = apart.abs().idxmax() if len(apart) else ""
        return (abs(apart[kind]), f"{kind} {apart[kind]:+.1f}") if kind else (0.0, "")
    if thing == "training loss":
        widest = decisive(differences(runs, pair, "train_loss"))[0].abs().max()
        return widest, f"up to {widest:.2f} nats apart"
    configs = runs.configs(pair[1])
    draws = len({config["tensors"] for config in configs})
    return len(configs) - draws, f"{draws} for {len(configs)} seeds"
