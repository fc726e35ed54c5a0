"""How well κ stands for the whole spectrum on the tensors of a model, from its κ table."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from kappa_lib.errors import InputError


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    if len(table) < 2:
        raise InputError(f"a κ table of {len(table)} rows", "statistics need at least two tensors")
    return table


def explained_by_type(table: pd.DataFrame) -> float:
    """Share of the variance of log κ that lies between module types, in [0, 1].

    Args:
        table: κ table with ``type`` and ``kappa``, at least two rows.
    """
    logs = np.log(_checked(table)["kappa"])
    between = logs.groupby(table["type"]).transform("mean")
    return float(((between - logs.mean()) ** 2).sum() / ((logs - logs.mean()) ** 2).sum())


def volume_loss(table: pd.DataFrame) -> pd.Series:
    """AM–GM gap of each tensor per singular value: what its spectrum lacks of Theorem 1, in nats.

    1/2 log(C/k) - V/k with C = ‖W‖_F², V of eq. (8) and k the rank: free of scale and of size,
    and zero only at κ = 1.

    Args:
        table: κ table with ``rows``, ``cols``, ``rank_deficiency``, ``frobenius``, ``log_volume``.
    """
    k = np.minimum(table["rows"], table["cols"]) - table["rank_deficiency"]
    return 0.5 * np.log(table["frobenius"] ** 2 / k) - table["log_volume"] / k


def rank_correlations(table: pd.DataFrame) -> tuple[float, float]:
    """Spearman's correlation of κ with the volume lost: over all tensors, and within types.

    The second is the mean over types of the correlation inside each, weighted by its tensors.

    Args:
        table: κ table, see :func:`volume_loss`.

    Returns:
        (all, within types), each in [-1, 1].
    """
    pairs = _checked(table).assign(loss=volume_loss(table))[["type", "kappa", "loss"]]
    groups = [group for _, group in pairs.groupby("type") if len(group) > 2]
    if not groups:
        raise InputError("no module type has three tensors", "give a table of several layers")
    overall = float(spearmanr(pairs["kappa"], pairs["loss"]).statistic)
    within = [float(spearmanr(group["kappa"], group["loss"]).statistic) for group in groups]
    return overall, float(np.average(within, weights=[len(group) for group in groups]))
