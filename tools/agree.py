"""Do runs of one's own agree with the committed ones of the same profile, arm and seed?

``python -m tools.agree type`` compares ``results/type`` with ``results/reference/type``. On the
same kind of processor, with as many threads, they should agree bit for bit; elsewhere digits
differ, and the table says by how much.
"""

import sys
from pathlib import Path

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.text import markdown
from kappa_lib.training.checkpoints import read_metrics

MACHINE = ("processor", "instructions", "threads", "device")
COLUMNS = ("run", "agrees", "WER, points", "general-text loss", "KL", "machines")


def compare(mine: Path, theirs: Path) -> list[list[str]]:
    """A row of ``COLUMNS`` for every run that is finished in both folders.

    The differences are the largest of any evaluation (WER: and of any test set).

    Raises:
        InputError: they have no finished run in common.
    """
    names = sorted({p.parent.name for p in mine.glob("runs/*/provenance.json")})
    common = [name for name in names if (theirs / "runs" / name / "provenance.json").is_file()]
    if not common:
        raise InputError(
            f"{mine}: no finished run that {theirs} has too", "train an arm and seed of it first"
        )
    return [[name, *_compared(mine / "runs" / name, theirs / "runs" / name)] for name in common]


def _compared(mine: Path, theirs: Path) -> list[str]:
    configs = [read_json(folder / "config.json") for folder in (mine, theirs)]
    other = sorted(k for k in {*configs[0], *configs[1]} if configs[0].get(k) != configs[1].get(k))
    if other:
        return [f"other settings: {', '.join(other)}", "", "", "", ""]
    runs = [read_metrics(folder) for folder in (mine, theirs)]
    for row in (*runs[0], *runs[1]):
        row.pop("seconds", None)
    machines = [read_json(folder / "provenance.json") for folder in (mine, theirs)]
    known = [key for key in MACHINE if all(key in machine for machine in machines)]
    apart = [key for key in known if machines[0][key] != machines[1][key]]
    told = f"other {', '.join(apart)}" if apart else "alike by name"
    if runs[0] == runs[1]:
        return ["bit for bit", "0", "0", "0", told]
    pairs = list(zip(*runs, strict=False))  # one that stopped at its loss may have ended sooner
    wer = max(abs(a["wer"][c] - b["wer"][c]) for a, b in pairs for c in b["wer"])
    text, kl = (max(abs(a[k] - b[k]) for a, b in pairs) for k in ("text_loss", "kl"))
    return ["no", f"{100 * wer:.2f}", f"{text:.4f}", f"{kl:.4f}", told]


if __name__ == "__main__":
    found = compare(paths.results(sys.argv[1]), paths.REFERENCE / sys.argv[1])
    print(markdown(COLUMNS, found))
