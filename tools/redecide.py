"""Decide a committed run anew by the rules of today, from the numbers that it left.

``python -m tools.redecide study`` runs the cells that record claims on the run kept under
``results/reference/study``; where a claim needs more than is committed, its recorded numbers go
to the rule as they are. Then it writes the run's report, the pairs' figure and the README.
"""

import json
import os
import sys

import pandas as pd

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence import arms, claims, report, tables
from kappa_lib.files import read_json
from tools import reference

# Notebook, what runs before its recording cells, and those whose numbers are in committed files.
STUDY = (
    "05_wer_over_training.ipynb",
    ["results"],
    ["claims-curves", "claims-published", "claims-forgetting", "claims-cause", "claims-text"],
)
KAPPA = ("03_kappa_of_llama.ipynb", ["imports"], ["null-numbers", "proxy"])
# Cells whose claims the committed runs of other profiles may decide, whatever was recorded before.
COMMITTED = {f"{STUDY[0]}#{cell}" for cell in ("claims-curves", "claims-cause", "claims-text")}
# The encoding study has no seeds and belongs to no run: its claims stand beside those of each.
ENCODING = (
    "07_does_kappa_track_information.ipynb",
    ["imports", "results"],
    ["tracks", "capacity", "pruning", "anisotropy", "stability"],
)
PAIRS = ("06_is_it_kappa.ipynb", ["outcomes", "summary"])


def redecide(name: str) -> None:
    """Write every claim, the report and the README's blocks of ``results/reference/<name>``.

    Raises:
        InputError: a record lacks a number of its rule, and no committed file has it.
    """
    os.environ["KAPPA_RESULTS"] = str(paths.REFERENCE)
    folder, profile = paths.results(name), tables.of_runs(name)
    rows = tables.results(profile)
    lacking = set()
    for claim in claims.catalogue().values():
        path = folder / "claims" / f"{claim.id}.json"
        found = read_json(path)["numbers"] if path.is_file() else None
        if claim.cell in COMMITTED:
            lacking.add(claim.cell)
        elif found is not None and set(found) == set(claim.numbers):
            claims.record(claim.id, name, **claims.from_json(found))
        elif found is not None or claim.cell.startswith((STUDY[0], ENCODING[0])):
            lacking.add(claim.cell)
    study = {"profile": name, "arms": profile.arms, "seeds": profile.seeds}
    kappa = {"profile": name, "p": profile, "table": pd.read_csv(folder / "kappa.csv")}
    cells = ((STUDY, study), (KAPPA, kappa), (ENCODING, {"profile": name}))
    for (notebook, before, recording), names in cells:
        own = {f"{notebook}#{cell}" for cell in recording}
        if lacking & own:
            _run(notebook, [*before, *recording], names)
        lacking -= own
    if lacking:
        raise InputError(f"{name}: nothing to decide {sorted(lacking)} from", "run its notebook")
    if (folder / "pairs.csv").is_file():
        _run(*PAIRS, {"p": profile, "pairs": arms, "tables": tables, "table": rows})
    report.write(profile)


def _run(notebook: str, cells: list[str], names: dict) -> None:
    """Run some cells of a notebook, in its order."""
    content = json.loads((paths.NOTEBOOKS / notebook).read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["id"] in cells:
            exec(compile("".join(cell["source"]), f"{notebook}#{cell['id']}", "exec"), names)


if __name__ == "__main__":
    redecide(sys.argv[1])
    reference.write_readme()
