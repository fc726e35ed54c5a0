"""Does κ track what a tensor encodes? The tables of the encoding study, and what goes with what.

The tables are those of ``tools/tensors.py`` and its forerunners. Ranks are correlated within module
types, and whole layers are the units of an interval.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import NATS, PAIR_LEVEL, Interval, bootstrap_mean
from kappa_lib.files import read_json
from kappa_lib.spectra.kappa_table import types as types_of

FOLDER = paths.REFERENCE / "encoding"  # the committed study of the default model
# |ρ| above the first is a useful stand-in for what it is said to stand for, below the other none.
RELEVANT, NEGLIGIBLE = 0.3, 0.2


def tensors(folder: Path) -> pd.DataFrame:
    """One row per tensor of a study: predictors, information, and what its changes cost.

    ``loss_<change>`` and ``kl_<change>`` are means over texts and blocks; where stability was
    measured, ``kl_noise`` is what relative noise costs, and ``noise_scale`` that of the gradient.
    InputError where a table lacks a tensor of the other.
    """
    table, damage = (pd.read_csv(folder / f"{name}.csv") for name in ("tensors", "damage"))
    if set(damage["tensor"]) != set(table["tensor"]):
        raise InputError(f"{folder}: the tables list different tensors", f"read those in {FOLDER}")
    costs = damage.pivot_table(index="tensor", columns="change", values=["loss", "kl"])
    costs.columns = [f"{measure}_{change}" for measure, change in costs.columns]
    table = table.join(costs, on="tensor")
    if (path := folder / "stability.csv").is_file():
        noise = pd.read_csv(path, index_col="tensor")[["kl", "noise_scale"]]
        table = table.join(noise.rename(columns={"kl": "kl_noise"}), on="tensor")
    return table


def of_model(model: str) -> pd.DataFrame | None:
    """The tensors of the committed study; None for another model than the one that was studied."""
    facts = FOLDER / "facts.json"
    studied = facts.is_file() and read_json(facts)["settings"]["model"] == model
    return tensors(FOLDER) if studied else None


def cost(table: pd.DataFrame, change: str, less: str | None = None) -> Interval:
    """Mean change of the loss over tensors, less that of another change; interval over layers."""
    values = table[f"loss_{change}"] - (table[f"loss_{less}"] if less else 0.0)
    return bootstrap_mean([values.groupby(table["layer"]).mean()], level=PAIR_LEVEL)


def surgery_cost(surgery: pd.DataFrame, scope: str, change: str = "surgery") -> Interval:
    """Mean cost of surgery on a type or on everything, interval over windows of text."""
    rows = surgery[(surgery["scope"] == scope) & (surgery["change"] == change)]
    return bootstrap_mean([rows["loss"]], level=PAIR_LEVEL)


def surgery_table(surgery: pd.DataFrame) -> pd.DataFrame:
    """Surgery and its controls by scope: loss in nats per token, with intervals over windows."""
    each = surgery[["scope", "change"]].drop_duplicates().itertuples(index=False)
    rows = [(*of, *surgery_cost(surgery, *of).ends) for of in each]
    return pd.DataFrame(rows, columns=["scope", "change", "loss", "low", "high"])


def smallest(folder: Path) -> pd.DataFrame:
    """What the smallest singular values of each type are worth to a study's model: median κ, the
    cost of taking σ_k away less that of as much off a random direction (``nats per token``, 95 %
    over windows), and its ``reading``."""
    table, surgery = (pd.read_csv(folder / f"{part}.csv") for part in ("tensors", "surgery"))
    costs = surgery.pivot_table(index=["scope", "window"], columns="change", values="loss")
    less = costs["surgery"] - costs["surgery_elsewhere"]
    found = {kind: bootstrap_mean([less[kind]]) for kind in types_of(table)}
    columns = {
        "κ": table.groupby("type")["kappa"].median(),
        "nats per token": {kind: of.text(3) for kind, of in found.items()},
        "reading": {k: str(of.reading(NATS, NATS, either_way=True)) for k, of in found.items()},
    }
    return pd.DataFrame(columns, index=list(found))


def within_types(
    table: pd.DataFrame,
    predictor: str,
    outcome: str,
    level: float = PAIR_LEVEL,
    resamples: int = 2000,
    rng: np.random.Generator | None = None,
) -> Interval:
    """Spearman's ρ of two columns within module types, with a bootstrap interval over layers.

    A row is a tensor (or head) with its ``type`` and ``layer``; where a value is missing it is left
    out. Ranks are taken within types, so that differences between these do not count. Layers are
    resampled whole, for a percentile interval that covers ``level``; ``n`` is their number.
    InputError with fewer than three values, or no spread in one of the columns.
    """
    rows = table.dropna(subset=[predictor, outcome])
    if len(rows) < 3:
        raise InputError(f"{len(rows)} values to correlate", "give ≥ 3")
    types = np.unique(rows["type"], return_inverse=True)[1]
    layers, own = np.unique(rows["layer"].to_numpy(float), return_inverse=True)
    values = [rows[name].to_numpy(float) for name in (predictor, outcome)]
    once = np.ones((1, len(rows)))
    estimate = float(_correlations(*(_ranks(v, types, once) for v in values))[0])
    if np.isnan(estimate):
        raise InputError("values to correlate have no spread", "leave them out")
    # A resample is how often it holds each layer, and so each value.
    rng = rng or np.random.default_rng(0)
    picked = rng.integers(len(layers), size=(resamples, len(layers)))
    times = (picked[:, :, None] == np.arange(len(layers))).sum(axis=1)[:, own]
    drawn = _correlations(*(_ranks(v, types, times) * np.sqrt(times) for v in values))
    tail = 50 * (1 - level)
    low, high = (float(x) for x in np.nanpercentile(drawn, [tail, 100 - tail]))
    return Interval(estimate, low, high, len(layers))


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


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of centred values along the last axis; NaN without spread."""
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(size > 1e-12, (x * y).sum(axis=-1) / np.where(size > 1e-12, size, 1.0), np.nan)
