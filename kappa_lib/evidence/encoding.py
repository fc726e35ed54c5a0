"""Does κ track what a tensor encodes? The committed tables of the encoding study, read and joined.

The tables are those of :mod:`kappa_lib.encoding.study`. Correlations are Spearman's within module
types with intervals over whole layers (:func:`kappa_lib.evidence.statistics.spearman_interval`).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kappa_lib.encoding.predictors import PREDICTORS
from kappa_lib.errors import InputError
from kappa_lib.evidence.rules_encoding import PAIR_LEVEL
from kappa_lib.evidence.statistics import (
    Interval,
    bootstrap_mean,
    holm,
    spearman_interval,
)
from kappa_lib.files import read_json, replacing

# Outcome → what it is called where it is shown. The first two decide the title's claim.
OUTCOMES = {
    "deficit": "information deficit, real input",
    "kl_redrawn": "KL, vectors redrawn",
    "deficit_isotropic": "information deficit, isotropic",
    "kl_truncated_10": "KL, smallest 10 % cut off",
    "kl_truncated_50": "KL, smallest 50 % cut off",
    "kl_flattened": "KL, flattened",
    "kl_permuted": "KL, σ permuted",
    "kl_flattened_noise": "KL, noise",
    "kl_surgery": "KL, σ_k taken away",
    "knn_entropy": "nearest-neighbour entropy",
    "diffusion_entropy": "diffusion spectral entropy",
}


@dataclass(frozen=True)
class Results:
    """What a study left behind.

    Attributes:
        tensors: a row a tensor: predictors, information, and for each change ``loss_<change>`` and
            ``kl_<change>``, means over texts and blocks.
        damage: a row a tensor, change, block and text.
        surgery: a row a scope, change and window.
        associations: of :func:`associations`, as :func:`main` left them.
        facts: settings, model, texts, provenance.
    """

    tensors: pd.DataFrame
    damage: pd.DataFrame
    surgery: pd.DataFrame
    associations: pd.DataFrame
    facts: dict[str, Any]


def read(folder: Path) -> Results:
    """The results of a study.

    Raises:
        InputError: a table is missing, or not every tensor was damaged.
    """
    names = ("tensors", "damage", "surgery", "associations")
    missing = [name for name in names if not (folder / f"{name}.csv").is_file()]
    if missing:
        raise InputError(
            f"{folder}: no {', '.join(missing)}",
            f"run `python -m kappa_lib.encoding.study --out {folder}` and "
            f"`python -m kappa_lib.evidence.encoding {folder}`",
        )
    tensors, damage, surgery, found = (pd.read_csv(folder / f"{name}.csv") for name in names)
    if set(damage["tensor"]) != set(tensors["tensor"]):
        raise InputError(f"{folder}: the tables list different tensors", "let the study finish")
    table = joined(tensors, damage)
    return Results(table, damage, surgery, found, read_json(folder / "facts.json"))


def joined(tensors: pd.DataFrame, damage: pd.DataFrame) -> pd.DataFrame:
    """The tensors with the mean costs of each change beside them."""
    wide = damage.pivot_table(index="tensor", columns="change", values=["loss", "kl"])
    wide.columns = [f"{measure}_{change}" for measure, change in wide.columns]
    return tensors.merge(wide, left_on="tensor", right_index=True, validate="one_to_one")


def within_types(
    table: pd.DataFrame, predictor: str, outcome: str, level: float = PAIR_LEVEL, **options: Any
) -> Interval:
    """Spearman's ρ of two columns within module types, its interval over layers, permutation p.

    Args:
        table: of :func:`read`.
        predictor: a column.
        outcome: a column.
        level: coverage.
        options: passed on to ``spearman_interval``.
    """
    rows = table.dropna(subset=[predictor, outcome])
    options = {"strata": rows["type"], **options}
    return spearman_interval(rows[predictor], rows[outcome], rows["layer"], level=level, **options)


def triple(found: Interval) -> list[float]:
    """Estimate, low, high: what the rules read."""
    return [found.estimate, found.low, found.high]


def text(found: Interval, digits: int = 2) -> str:
    """An estimate with its interval, for instance ``+0.41 [+0.20, +0.58]``."""
    # Adding zero turns what rounds to -0 into 0.
    shown = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in triple(found))
    estimate, low, high = shown
    return f"{estimate} [{low}, {high}]"


def cost(table: pd.DataFrame, change: str, less: str | None = None) -> Interval:
    """Mean change of the loss over tensors, less that of another change; interval over layers.

    Args:
        table: of :func:`read`.
        change: name of a change.
        less: of another.
    """
    values = table[f"loss_{change}"] - (table[f"loss_{less}"] if less else 0.0)
    return bootstrap_mean([values.groupby(table["layer"]).mean()], level=PAIR_LEVEL)


def surgery_cost(
    surgery: pd.DataFrame, scope: str, change: str = "surgery", measure: str = "loss"
) -> Interval:
    """Mean cost of surgery on a type or on everything, interval over windows of text."""
    rows = surgery[(surgery["scope"] == scope) & (surgery["change"] == change)]
    return bootstrap_mean([rows[measure]], level=PAIR_LEVEL)


def surgery_table(surgery: pd.DataFrame) -> pd.DataFrame:
    """Surgery and its controls by scope: loss in nats a token, with intervals over windows."""
    rows = []
    for (scope, change), _ in surgery.groupby(["scope", "change"], sort=False):
        found = surgery_cost(surgery, scope, change)
        rows.append(
            {
                "scope": scope,
                "change": change,
                "loss": found.estimate,
                "low": found.low,
                "high": found.high,
            }
        )
    return pd.DataFrame(rows)


def reliability(damage: pd.DataFrame, tensors: pd.DataFrame) -> pd.Series:
    """Rank agreement of the KL of two blocks of text within types: a ceiling for any predictor."""
    kinds = damage["tensor"].map(tensors.set_index("tensor")["type"])
    found = {}
    for change, rows in damage.assign(type=kinds).groupby("change", sort=False):
        wide = rows.pivot_table(index=["type", "tensor"], columns="block", values="kl")
        if wide.shape[1] > 1:
            ranks = wide.groupby("type").rank(pct=True)
            found[change] = float(ranks[0].corr(ranks[1]))
    return pd.Series(found, dtype=float)


def associations(
    table: pd.DataFrame,
    predictors: Sequence[str] = PREDICTORS,
    outcomes: Sequence[str] = tuple(OUTCOMES),
    resamples: int = 1000,
) -> pd.DataFrame:
    """Every predictor against every outcome: within types, pooled, and with the layer taken out.

    Returns:
        A row a pair: ``within`` with ``low``, ``high`` (95 % over layers), ``p`` by permutation
        and ``p_holm`` over the predictors of an outcome, ``pooled`` and ``beside_layer``.
    """
    rows = []
    for outcome in outcomes:
        for predictor in predictors:
            if predictor == outcome:
                continue
            found = within_types(table, predictor, outcome, level=0.95, resamples=resamples)
            clean = table.dropna(subset=[predictor])
            beside = float("nan")
            if predictor != "layer":
                beside = within_types(
                    table, predictor, outcome, control=clean["layer"], resamples=1, permutations=1
                ).estimate
            rows.append(
                {
                    "outcome": outcome,
                    "predictor": predictor,
                    "within": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p,
                    "pooled": clean[predictor].corr(clean[outcome], method="spearman"),
                    "beside_layer": beside,
                    "n": len(clean),
                }
            )
    frame = pd.DataFrame(rows)
    for _, group in frame.groupby("outcome"):
        adjusted = holm(dict(zip(group["predictor"], group["p"], strict=True)))
        frame.loc[group.index, "p_holm"] = group["predictor"].map(adjusted)
    return frame


def main() -> None:
    """``python -m kappa_lib.evidence.encoding FOLDER``: writes its ``associations.csv``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tensors, damage = (pd.read_csv(folder / f"{name}.csv") for name in ("tensors", "damage"))
    with replacing(folder / "associations.csv") as temporary:
        associations(joined(tensors, damage)).to_csv(temporary, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
