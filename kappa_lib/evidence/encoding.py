"""Does κ track what a tensor encodes? The committed tables of the encoding study, read and joined.

The tables are those of :mod:`kappa_lib.encoding.study`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import LEVEL, NATS, PAIR_LEVEL, Interval, bootstrap_mean
from kappa_lib.files import read_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.kappa_table import types as types_of
from kappa_lib.spectra.kappa_table import volume_loss

FOLDER = paths.REFERENCE / "encoding"  # the committed study of the default model
# |ρ| above the first is a useful stand-in for what it is said to stand for, below the other none.
RELEVANT, NEGLIGIBLE = 0.3, 0.2


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


def smallest(folder: Path) -> pd.DataFrame:
    """What the smallest singular values of each type of one study are worth to the model.

    Returns:
        Per type: median κ, the cost of taking σ_k away less that of as much off a random
        direction (``nats per token``, 95 % over windows), and its ``reading``.
    """
    table, surgery = (pd.read_csv(folder / f"{part}.csv") for part in ("tensors", "surgery"))
    costs = surgery.pivot_table(index=["scope", "window"], columns="change", values="loss")
    less, rows = costs["surgery"] - costs["surgery_elsewhere"], {}
    for kind in types_of(table):
        found = bootstrap_mean([less[kind]], level=LEVEL)
        rows[kind] = {
            "κ": table.loc[table["type"] == kind, "kappa"].median(),
            "nats per token": found.text(3),
            "reading": str(found.reading(NATS, NATS, either_way=True)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
