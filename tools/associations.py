"""What can be read off a tensor, against what it encodes: all correlations of an encoding study.

``python -m tools.associations results/reference/encoding`` writes ``associations.csv`` there.
"""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from kappa_lib.evidence.encoding import tensors, within_types
from kappa_lib.evidence.verdicts import LEVEL, holm
from kappa_lib.figures.kappa import WORDS
from kappa_lib.files import write_text

OUTCOMES = ("deficit", "kl_redrawn", "deficit_isotropic", "kl_truncated_10", "kl_truncated_50")
OUTCOMES += ("kl_flattened", "kl_permuted", "kl_flattened_noise", "kl_surgery", "knn_entropy")


def associations(
    table: pd.DataFrame,
    predictors: Sequence[str] = tuple(WORDS),
    outcomes: Sequence[str] = OUTCOMES,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Every predictor against every outcome: within types, pooled, and with the layer taken out.

    Returns:
        One row per pair: ``within`` with ``low``, ``high`` (95 % over layers), ``p`` by permutation
        and ``p_holm`` over the predictors of an outcome, ``pooled`` and ``beside_layer``.
    """
    rows = []
    for outcome, predictor in product(outcomes, predictors):
        if predictor == outcome:
            continue
        rng = np.random.default_rng(0)
        found = within_types(table, predictor, outcome, LEVEL, resamples, rng)
        beside = np.nan if predictor == "layer" else beside_layer(table, predictor, outcome)
        row = {"outcome": outcome, "predictor": predictor, "within": found.estimate}
        row |= {"low": found.low, "high": found.high}
        row["p"] = permutation_p(table, predictor, outcome, rng)
        row["pooled"] = table[predictor].corr(table[outcome], method="spearman")
        rows.append(row | {"beside_layer": beside, "n": table[predictor].count()})
    frame = pd.DataFrame(rows)
    for _, group in frame.groupby("outcome"):
        adjusted = holm(dict(zip(group["predictor"], group["p"], strict=True)))
        frame.loc[group.index, "p_holm"] = group["predictor"].map(adjusted)
    return frame


def _ranks(table: pd.DataFrame, predictor: str, outcome: str) -> pd.DataFrame:
    """Both columns' ranks within types, and the layer's, centred, each type on the same scale."""
    rows = table.dropna(subset=[predictor, outcome])
    columns = dict.fromkeys((predictor, outcome, "layer"))
    by_type = rows[list(columns)].groupby(rows["type"])
    return by_type.rank(pct=True) - (1 + 1 / by_type.transform("size").to_numpy()[:, None]) / 2


def beside_layer(table: pd.DataFrame, predictor: str, outcome: str) -> float:
    """Spearman's ρ within types with the layer's part taken out of both columns."""
    rho = _ranks(table, predictor, outcome).corr().to_numpy()
    (first, second), between = rho[2, :2], rho[0, 1]
    return float((between - first * second) / np.sqrt((1 - first**2) * (1 - second**2)))


def permutation_p(
    table: pd.DataFrame,
    predictor: str,
    outcome: str,
    rng: np.random.Generator,
    permutations: int = 20_000,
) -> float:
    """Two-sided p of ρ within types, at least 1/(permutations + 1), which Holm's multiplies.

    Whole layers trade their outcomes where every type has each layer once, so that what a layer's
    tensors share stays together; else outcomes are shuffled within types.
    """
    rows = table.dropna(subset=[predictor, outcome])
    ranks = _ranks(table, predictor, outcome)
    first, second = (ranks[name].to_numpy() for name in (predictor, outcome))
    types, layers = np.unique(rows["type"], return_inverse=True)[1], rows["layer"].to_numpy()
    order, found = np.lexsort((layers, types)), np.unique(layers)
    positions = np.tile(np.arange(len(rows)), (permutations, 1))
    shape = types.max() + 1, len(found)
    if len(rows) == np.prod(shape) and (layers[order].reshape(shape) == found).all():
        grid = order.reshape(shape)
        traded = rng.permuted(np.tile(np.arange(len(found)), (permutations, 1)), axis=1)
        positions[:, grid] = grid[:, traded].swapaxes(0, 1)
    else:
        for kind in range(shape[0]):
            inside = np.flatnonzero(types == kind)
            positions[:, inside] = rng.permuted(positions[:, inside], axis=1)
    size = np.linalg.norm(first) * np.linalg.norm(second)
    extreme = np.abs(second[positions] @ first) / size >= abs(first @ second) / size - 1e-12
    return (int(extreme.sum()) + 1) / (permutations + 1)


def main() -> None:
    """Write ``associations.csv`` into a study's folder."""
    folder = Path(sys.argv[1])
    table = associations(tensors(folder))
    write_text(folder / "associations.csv", table.to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
