"""Try learning rates on the seed that decides nothing, and fix by rule what the runs will use.

``python -m tools.pilot text 80 3e-4 1e-3 3e-3`` trains every arm of the profile at every rate for
80 steps with seed 0. An arm gets the rate of the lowest held-out loss at the end; the loss at which
every run stops is the lowest that all arms came down to at theirs. Both are printed, to be copied
into the profile before its first run; what they rest on stays as ``results/<profile>/pilot.csv``.
"""

import sys

import pandas as pd

from kappa_lib import paths, profiles
from kappa_lib.evidence import tables
from kappa_lib.evidence.verdicts import PILOT_SEED
from kappa_lib.files import read_json, replacing
from kappa_lib.run import stages

# A loss that no run comes down to has the training loss averaged as where it stops a run.
ALIKE = {"arm_lr": {}, "stop_loss": 1e-9}
MEASURED = ("arm", "train_loss", "heldout_loss", "wer_mean")


def pilot(name: str, steps: int, rates: list[float]) -> pd.DataFrame:
    """A row an arm and rate: ``train_loss`` of the last 20 steps, ``heldout_loss``, ``wer_mean``.

    With it commit, processor and device of each run.
    """
    found = []
    for rate in rates:
        own = {"profile": f"{name}-pilot-{rate:g}", "lr": rate, "seeds": [PILOT_SEED]}
        pace = {"steps": steps, "eval_every": steps}
        profile = profiles.load(name, **own, **pace, **ALIKE)
        stages.train_all(*stages.prepare(profile))
        table = tables.results(profile)
        ends = table[table["step"] == steps].assign(lr=rate)
        records = {
            arm: read_json(folder / "provenance.json")
            for (arm, _), folder in tables.finished(profile).items()
        }
        origin = pd.DataFrame.from_dict(records, orient="index")
        origin = origin[["commit", "processor", "device"]]
        found.append(ends[[*MEASURED, "lr", "step"]].join(origin, on="arm"))
    return pd.concat(found, ignore_index=True)


def chosen(found: pd.DataFrame) -> tuple[dict[str, float], float]:
    """Each arm's rate, and the training loss that all arms reached at theirs."""
    best = found.loc[found.groupby("arm", sort=False)["heldout_loss"].idxmin()]
    return dict(zip(best["arm"], best["lr"], strict=True)), float(best["train_loss"].max())


if __name__ == "__main__":
    name, steps, *rates = sys.argv[1:]
    table = pilot(name, int(steps), list(map(float, rates)))
    with replacing(paths.results(name) / "pilot.csv") as temporary:
        table.to_csv(temporary, index=False)
    arm_lr, stop_loss = chosen(table)
    print(f"{table.to_string()}\narm_lr: {arm_lr}\nstop_loss: {stop_loss:.2f}")
