"""Does κ track what a tensor encodes? The committed tables of the encoding study, read and joined.

The tables are those of :mod:`kappa_lib.encoding.study`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.correlation import within_types
from kappa_lib.evidence.verdicts import (
    LEVEL,
    NATS,
    PAIR_LEVEL,
    SAME,
    Interval,
    bootstrap_mean,
)
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.kappa_table import types as types_of
from kappa_lib.spectra.kappa_table import volume_loss

FOLDER = paths.REFERENCE / "encoding"  # the committed study of the default model
# |ρ| above the first is a useful stand-in for what it is said to stand for, below the other none.
RELEVANT, NEGLIGIBLE = 0.3, 0.2
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
}


@dataclass(frozen=True)
class Results:
    """What a study left behind."""

    # A row per tensor: predictors, information, and for each change ``loss_<change>`` and
    # ``kl_<change>``, means over texts and blocks; where stability was measured, what relative
    # noise costs (``kl_noise``) and the ``noise_scale`` of the gradient.
    tensors: pd.DataFrame
    damage: pd.DataFrame  # a row per tensor, change, block and text
    surgery: pd.DataFrame  # a row per scope, change and window
    facts: dict[str, Any]  # settings, model, texts, provenance


def read(folder: Path) -> Results:
    """The results of a study; InputError where a table is missing or lacks a tensor's damage."""
    names = ("tensors", "damage", "surgery")
    missing = [name for name in names if not (folder / f"{name}.csv").is_file()]
    if missing:
        remedy = f"run `python -m kappa_lib.encoding.study --out {folder}`"
        raise InputError(f"{folder}: no {', '.join(missing)}", remedy)
    tensors, damage, surgery = (pd.read_csv(folder / f"{name}.csv") for name in names)
    if set(damage["tensor"]) != set(tensors["tensor"]):
        raise InputError(f"{folder}: the tables list different tensors", "let the study finish")
    table = joined(tensors, damage)
    if (path := folder / "stability.csv").is_file():
        noise = pd.read_csv(path, index_col="tensor")[["kl", "noise_scale"]]
        table = table.join(noise.rename(columns={"kl": "kl_noise"}), on="tensor")
    return Results(table, damage, surgery, read_json(folder / "facts.json"))


def table_of(name: str, profile: Profile) -> pd.DataFrame | None:
    """One row per tensor: of the ``encoding`` study, or of the profile's ``kappa`` table.

    The first is None for another model than the one that was studied; the second has
    :func:`with_volume`.
    """
    if name == "kappa":
        return with_volume(pd.read_csv(profile.folder / "kappa.csv"))
    facts = FOLDER / "facts.json"
    if not facts.is_file() or read_json(facts)["settings"]["model"] != profile.model:
        return None
    return read(FOLDER).tensors


def with_volume(table: pd.DataFrame) -> pd.DataFrame:
    """A κ table's tensors inside layers, with the volume that each lacks at its norm.

    ``volume_lost`` is Theorem 1's, per direction; ``effective_rank_share`` is of the rank.
    """
    share = table["effective_rank"] / np.minimum(table["rows"], table["cols"])
    found = table.assign(volume_lost=volume_loss(table), effective_rank_share=share)
    return found[found["layer"].notna()]


def joined(tensors: pd.DataFrame, damage: pd.DataFrame) -> pd.DataFrame:
    """The tensors with the mean costs of each change beside them."""
    wide = damage.pivot_table(index="tensor", columns="change", values=["loss", "kl"])
    wide.columns = [f"{measure}_{change}" for measure, change in wide.columns]
    return tensors.merge(wide, left_on="tensor", right_index=True, validate="one_to_one")


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


def information(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Per study: tensors, types, loss, ρ of κ with the deficit (ideal, real), and its reading.

    ``folders`` says where each of the studies lies.
    """
    rows = {}
    for name, folder in folders.items():
        table, surgery = (pd.read_csv(folder / f"{part}.csv") for part in ("tensors", "surgery"))
        ideal, real = (
            within_types(table, "kappa", column, level=LEVEL)
            for column in ("deficit_isotropic", "deficit")
        )
        rows[name] = {
            "tensors": len(table),
            "types": len(types_of(table)),
            "loss": surgery["base"].mean(),
            "isotropic": ideal.text(),
            "real": real.text(),
            "reading": real.reading(RELEVANT, NEGLIGIBLE),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def smallest(folder: Path) -> pd.DataFrame:
    """What the smallest singular values of each type of one study are worth to the model.

    Returns:
        Per type: shape, median κ and input κ, the cost of taking σ_k away less that of as much
        off a random direction (``nats per token``, 95 % over windows), and its ``reading``.
    """
    table, surgery = (pd.read_csv(folder / f"{part}.csv") for part in ("tensors", "surgery"))
    costs = surgery.pivot_table(index=["scope", "window"], columns="change", values="loss")
    less, rows = costs["surgery"] - costs["surgery_elsewhere"], {}
    for kind in types_of(table):
        of, found = table[table["type"] == kind], bootstrap_mean([less[kind]], level=LEVEL)
        alike = found.low > -NATS and found.high < NATS
        rows[kind] = {
            "rows": of["rows"].iloc[0],
            "cols": of["cols"].iloc[0],
            "κ": of["kappa"].median(),
            "input κ": of["input_kappa"].median(),
            "nats per token": found.text(3),
            "reading": SAME if alike else found.reading(NATS, -NATS),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


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
