"""What can be read off a tensor, against what it encodes: all correlations of an encoding study.

``python -m tools.associations results/reference/encoding`` writes ``associations.csv`` there.
"""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from kappa_lib.evidence.correlation import within_types
from kappa_lib.evidence.encoding import joined
from kappa_lib.evidence.verdicts import LEVEL, holm
from kappa_lib.figures.encoding import WORDS
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
        found = within_types(table, predictor, outcome, level=LEVEL, resamples=resamples)
        clean, beside = table.dropna(subset=[predictor]), float("nan")
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
    """Write ``associations.csv`` into a study's folder."""
    folder = Path(sys.argv[1])
    tensors, damage = (pd.read_csv(folder / f"{name}.csv") for name in ("tensors", "damage"))
    table = associations(joined(tensors, damage))
    write_text(folder / "associations.csv", table.to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
