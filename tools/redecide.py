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
from kappa_lib.evidence import catalogue, claims, pairs, report, tables
from kappa_lib.files import read_json
from tools import readme, reference

# Cells whose numbers come from committed files: a notebook, and what runs before its recorders.
STUDY = ("05_wer_over_training.ipynb", ("results",))
KAPPA = ("03_kappa_of_llama.ipynb", ("imports",))
PAIRS = ("06_is_it_kappa.ipynb", ("outcomes", "summary"))
RECOMPUTED = {"kappa-reflects-training", "kappa-as-proxy"}


def redecide(name: str) -> None:
    """Write every claim, the report and the README's blocks of ``results/reference/<name>``."""
    os.environ["KAPPA_RESULTS"] = str(reference.REFERENCE)
    folder = paths.results(name)
    known = catalogue.catalogue()
    for path in sorted((folder / "claims").glob("*.json")):
        claim = known.get(path.stem)
        notebook = claim.cell.partition("#")[0] if claim else ""
        if claim and notebook != STUDY[0] and claim.id not in RECOMPUTED:
            found = read_json(path)["numbers"]
            if set(found) != set(claim.numbers):
                raise InputError(f"{path}: numbers of another rule", "run its notebook again")
            claims.record(claim.id, name, **claims.from_json(found))
        else:
            path.unlink()
    profile = readme.committed(name)
    names = {"profile": name, "arms": profile.arms, "seeds": profile.seeds}
    _run(STUDY, {c.cell for c in known.values()}, names)
    table = pd.read_csv(folder / "kappa.csv")
    cells = {known[claim].cell for claim in RECOMPUTED}
    _run(KAPPA, cells, {"profile": name, "p": profile, "table": table})
    if (folder / "pairs.csv").is_file():
        _run(
            PAIRS,
            set(),
            {"p": profile, "pairs": pairs, "tables": tables, "table": tables.results(profile)},
        )
    report.write(profile)


def _run(source: tuple[str, tuple[str, ...]], cells: set[str], names: dict) -> None:
    """Run a notebook's preparing cells and those of ``cells`` that it holds, in its order."""
    notebook, before = source
    wanted = {*before, *(cell.partition("#")[2] for cell in cells if cell.startswith(notebook))}
    content = json.loads((paths.NOTEBOOKS / notebook).read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["id"] in wanted:
            exec(compile("".join(cell["source"]), f"{notebook}#{cell['id']}", "exec"), names)


if __name__ == "__main__":
    redecide(sys.argv[1])
    reference.write_readme()
