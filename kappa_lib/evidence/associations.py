"""What can be read off a tensor, against what it encodes: the table of all correlations of a study.

``python -m kappa_lib.evidence.associations FOLDER`` writes ``associations.csv`` into the study's
folder.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from kappa_lib.evidence.correlation import within_types
from kappa_lib.evidence.encoding import OUTCOMES, joined
from kappa_lib.evidence.verdicts import LEVEL, holm
from kappa_lib.figures.encoding import WORDS
from kappa_lib.files import replacing

PREDICTORS = list(WORDS)  # what is held against the outcomes, in the order in which it is shown


def associations(
    table: pd.DataFrame,
    predictors: Sequence[str] = PREDICTORS,
    outcomes: Sequence[str] = tuple(OUTCOMES),
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
    """``python -m kappa_lib.evidence.associations FOLDER``: writes its ``associations.csv``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tensors, damage = (pd.read_csv(folder / f"{name}.csv") for name in ("tensors", "damage"))
    with replacing(folder / "associations.csv") as temporary:
        associations(joined(tensors, damage)).to_csv(temporary, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
