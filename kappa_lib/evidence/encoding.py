"""Does κ track what a tensor encodes? The committed tables of the encoding study, read and joined.

The tables are those of :mod:`kappa_lib.encoding.study`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib.errors import InputError
from kappa_lib.evidence import listing
from kappa_lib.evidence.rules_kappa import PAIR_LEVEL
from kappa_lib.evidence.verdicts import LEVEL, Interval, bootstrap_mean, holm
from kappa_lib.figures.encoding import WORDS
from kappa_lib.files import read_json, replacing
from kappa_lib.spectra.kappa_table import volume_loss

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
PREDICTORS = list(WORDS)  # what is held against them, in the order in which it is shown


@dataclass(frozen=True)
class Results:
    """What a study left behind."""

    # A row a tensor: predictors, information, and for each change ``loss_<change>`` and
    # ``kl_<change>``, means over texts and blocks.
    tensors: pd.DataFrame
    damage: pd.DataFrame  # a row a tensor, change, block and text
    surgery: pd.DataFrame  # a row a scope, change and window
    associations: pd.DataFrame  # of :func:`associations`, as :func:`main` left them
    facts: dict[str, Any]  # settings, model, texts, provenance


def read(folder: Path) -> Results:
    """The results of a study; InputError where a table is missing or lacks a tensor's damage."""
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
    table: pd.DataFrame,
    predictor: str,
    outcome: str,
    level: float = PAIR_LEVEL,
    beside_layer: bool = False,
    resamples: int = 2000,
    permutations: int = 20_000,
) -> Interval:
    """Spearman's ρ of two columns within module types: bootstrap over layers, permutation p.

    A row is a tensor (or head) with its ``type`` and ``layer``; where a value is missing it is left
    out. Ranks are taken within types, so that differences between these do not count;
    ``beside_layer`` partials the layer's out of both. Layers are resampled whole, for a percentile
    interval that covers ``level``. p is at least 1/(permutations + 1), which Holm's correction
    multiplies.

    Returns:
        ρ, its interval, the two-sided permutation p, and the number of layers as ``n``. Under
        permutation whole layers trade their outcomes where every type has each layer once, so
        that what a layer's tensors share stays together; else these are shuffled within types.

    Raises:
        InputError: fewer than three values, or no spread in one of the columns.
    """
    rows = table.dropna(subset=[predictor, outcome])
    if len(rows) < 3:
        raise InputError(f"{len(rows)} values to correlate", "give ≥ 3")
    types = np.unique(rows["type"], return_inverse=True)[1]
    layers = rows["layer"].to_numpy()
    values = [rows[name].to_numpy(float) for name in (predictor, outcome)]
    if beside_layer:
        values.append(layers.astype(float))
    first, second, *third = (_ranks(v, types, np.ones((1, len(rows)))) for v in values)
    estimate = float(_correlations(first, second, *third)[0])
    if np.isnan(estimate):
        raise InputError("values to correlate have no spread", "leave them out")
    rng = np.random.default_rng(0)
    # A resample is how often it holds each layer, and so each value.
    found, own = np.unique(layers, return_inverse=True)
    picked = rng.integers(len(found), size=(resamples, len(found)))
    times = (picked[:, :, None] == np.arange(len(found))).sum(axis=1)[:, own]
    drawn = _correlations(*(_ranks(v, types, times) * np.sqrt(times) for v in values))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    # Within a type a permutation of values is one of their ranks, which are taken once.
    shuffled = second[0, _shuffles(layers, types, permutations, rng)]
    shuffled = _correlations(first, shuffled, *third)
    extreme = int((np.abs(shuffled) >= abs(estimate) - 1e-12).sum())
    p = (extreme + 1) / (permutations + 1)
    return Interval(estimate, float(low), float(high), level, len(found), p)


def _ranks(values: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Ranks (resamples, n) of values (n,) within groups, centred and each group on the same scale.

    A resample holds each value so many ``times`` (resamples, n); equal values share their mean
    rank.
    """
    ranks = np.empty(times.shape)
    for group in np.unique(groups):
        inside = np.flatnonzero(groups == group)
        _, place, copies = np.unique(values[inside], return_inverse=True, return_counts=True)
        order = inside[np.argsort(place, kind="stable")]
        equal = np.add.reduceat(times[:, order], np.cumsum(copies) - copies, axis=1)
        total = equal.sum(axis=1, keepdims=True)
        rank = np.cumsum(equal, axis=1) - equal + (equal + 1) / 2
        ranks[:, inside] = ((rank - (total + 1) / 2) / np.maximum(total, 1))[:, place]
    return ranks


def _correlations(x: np.ndarray, y: np.ndarray, control: np.ndarray | None = None) -> np.ndarray:
    """Pearson's correlation along the last axis, without the control's part; NaN without spread."""

    def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("...i,...i->...", a, b)

    if control is not None:
        size = np.maximum(inner(control, control), 1e-12)
        x, y = (v - (inner(v, control) / size)[..., None] * control for v in (x, y))
    size = np.sqrt(inner(x, x) * inner(y, y))
    return np.where(size > 1e-12, inner(x, y) / np.where(size > 1e-12, size, 1.0), np.nan)


def _shuffles(
    layers: np.ndarray, types: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Positions of the outcomes under ``count`` permutations, (count, n)."""
    order, found = np.lexsort((layers, types)), np.unique(layers)
    positions = np.tile(np.arange(len(order)), (count, 1))
    size = len(np.unique(types)), len(found)
    if len(order) == np.prod(size) and (layers[order].reshape(size) == found).all():
        grid = order.reshape(size)
        traded = rng.permuted(np.tile(np.arange(len(found)), (count, 1)), axis=1)
        positions[:, grid] = grid[:, traded].swapaxes(0, 1)
        return positions
    for kind in np.unique(types):
        inside = np.flatnonzero(types == kind)
        positions[:, inside] = rng.permuted(positions[:, inside], axis=1)
    return positions


def volume_follows(table: pd.DataFrame, measure: str) -> tuple[float, float, float]:
    """Within-type Spearman of a column of a κ table with the volume lost: ρ, low, high over layers.

    The table has at least two layers; a measure of counts is taken over the rank.
    """
    values = table[measure]
    if measure == "effective_rank":
        values = values / np.minimum(table["rows"], table["cols"])
    columns = table.assign(measure=values, lost=volume_loss(table))
    found = within_types(columns, "measure", "lost", LEVEL)
    return found.estimate, found.low, found.high


def triple(found: Interval) -> list[float]:
    """Estimate, low, high: what the rules read."""
    return [found.estimate, found.low, found.high]


def text(found: Interval, digits: int = 2) -> str:
    """An estimate with its interval, for instance ``+0.41 [+0.20, +0.58]``."""
    return listing.interval(*triple(found), digits)


def cost(table: pd.DataFrame, change: str, less: str | None = None) -> Interval:
    """Mean change of the loss over tensors, less that of another change; interval over layers."""
    values = table[f"loss_{change}"] - (table[f"loss_{less}"] if less else 0.0)
    return bootstrap_mean([values.groupby(table["layer"]).mean()], level=PAIR_LEVEL)


def surgery_cost(surgery: pd.DataFrame, scope: str, change: str = "surgery") -> Interval:
    """Mean cost of surgery on a type or on everything, interval over windows of text."""
    rows = surgery[(surgery["scope"] == scope) & (surgery["change"] == change)]
    return bootstrap_mean([rows["loss"]], level=PAIR_LEVEL)


def surgery_table(surgery: pd.DataFrame) -> pd.DataFrame:
    """Surgery and its controls by scope: loss in nats a token, with intervals over windows."""
    each = surgery[["scope", "change"]].drop_duplicates().itertuples(index=False)
    rows = [(*of, *triple(surgery_cost(surgery, *of))) for of in each]
    return pd.DataFrame(rows, columns=["scope", "change", "loss", "low", "high"])


def anisotropy(table: pd.DataFrame, lost: Interval, shuffled: Interval, raised: Interval) -> str:
    """What equal, and what reordered, singular values cost, as Markdown.

    ``table`` is that of :func:`joined`; ``lost`` is the :func:`cost` of ``flattened`` less
    ``flattened_noise``, ``shuffled`` that of ``permuted`` less ``flattened``, and ``raised`` the
    :func:`surgery_cost` of everything.
    """
    each = table["loss_flattened"] - table["loss_flattened_noise"]
    spread = ""
    if lost.low > 0:
        largest = each.nlargest(5).sum() / each.sum()
        spread = f" (five of {len(each)} tensors hold {largest:.0%} of it; the median is"
        spread += f" {each.median():+.3f})"
    meant = "unequal values spare something even on the wrong directions"
    if shuffled.high >= 0:
        meant = (
            "unequal values as such, which is all that κ reads, are not seen to spare anything: it"
            " is which directions are amplified that counts, not how unequally"
        )
    noisier = (each < 0).groupby(table["type"]).mean()
    hurts = "hurts" if raised.low > 0 else "does not hurt, by its interval,"
    return (
        f"**We find** that making the singular values equal costs {_than(lost)} noise of that size,"
        f" {text(lost, 3)} nats a token in the mean{spread}. The same values on other directions,"
        f" at unchanged κ, cost {_than(shuffled)} equal ones; {meant}. In {noisier.max():.0%} of"
        f" {noisier.idxmax()}, more than of any other type, noise of that size costs more than"
        " flattening. (This is tensor by tensor; notebook 3 changes all layers of a type at once.)"
        f" Raising every κ through σ_k alone {hurts} the model."
    )


def _than(found: Interval) -> str:
    """What an interval of a difference says, as the words before what is compared."""
    if found.low <= 0 <= found.high:
        return "neither more nor less, by the interval, than"
    return "more than" if found.low > 0 else "less than"


def reliability(damage: pd.DataFrame, tensors: pd.DataFrame) -> pd.Series:
    """Rank agreement of the KL of two blocks of text within types.

    Its root is about the most that anything could correlate with the KL of one block.
    """
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
    for outcome, predictor in product(outcomes, predictors):
        if predictor == outcome:
            continue
        found = within_types(table, predictor, outcome, level=LEVEL, resamples=resamples)
        clean = table.dropna(subset=[predictor])
        beside = float("nan")
        if predictor != "layer":
            once = {"beside_layer": True, "resamples": 1, "permutations": 1}
            beside = within_types(table, predictor, outcome, **once).estimate
        row = {"outcome": outcome, "predictor": predictor, "within": found.estimate}
        row |= {"low": found.low, "high": found.high, "p": found.p}
        row["pooled"] = clean[predictor].corr(clean[outcome], method="spearman")
        rows.append(row | {"beside_layer": beside, "n": len(clean)})
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
