"""Keep the small results of a run in the repository, and the pages' tables true to them.

``python -m tools.reference laptop`` copies from ``results/laptop`` to ``results/reference/laptop``
and draws figures and writes the pages' tables from the copy; with ``bench`` the same for what the
benchmark measured, with those of ``PROFILES`` the same for the runs that are finished, be they all
or not. Without a name only claims that are declared, figures, reports and tables are made anew.
"""

import shutil
import sys
from pathlib import Path

from kappa_lib import figures, paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import claims, compare, report
from kappa_lib.evidence.runs import runs
from kappa_lib.files import write_text
from tools import readme

KEPT = (
    "REPORT.md",
    "metrics.csv",
    "pairs.csv",
    "pilot.csv",
    "kappa.csv",
    "split.json",
    "timings.json",
    "claims/*.json",
    "selections/*.json",
    "runs/*/config.json",
    "runs/*/metrics.jsonl",
    "runs/*/provenance.json",
    "runs/*/spectra.csv",
    "bench.*",
)
# Profiles that are trained without notebooks and committed as far as they have come.
PROFILES = ("gauge", "cause", "understood", "type", "long", "voices", "turn")
PROFILES += ("text", "text_longer", "text_qwen", "text_early")
# Figures that the report of a profile shows, or the page of all runs; notebook 8 draws gauge's.
CURVES = ("wer_over_training", "forgetting_over_training", "learning_against_forgetting")
SHOWN = {
    "laptop": (*CURVES, "forgetting_by_text", "paired_differences"),
    "study": (*CURVES, "paired_differences"),
    **dict.fromkeys(("turn", "long", "voices"), ("wer_over_training",)),
    **dict.fromkeys(("cause", "understood", "type", "text_early"), ("paired_differences",)),
    **dict.fromkeys(
        ("text", "text_longer", "text_qwen"), ("learning_against_forgetting", "paired_differences")
    ),
}
# What marks a finished run, and what to call for one.
FINISHED = {
    "bench": ("bench.json", "bash reproduce.sh bench"),
    **{name: ("stages/scan.json", f"kappa train --profile {name}") for name in PROFILES},
}


def publish(name: str) -> Path:
    """Copy the small files of a finished run, a profile or a benchmark, to ``results/reference``.

    What else is committed there stays: runs may come from several machines.

    Raises:
        InputError: it has not been run to its end.
    """
    source, target = paths.results(name), paths.REFERENCE / name
    mark, command = FINISHED.get(name, (report.FILE, f"bash reproduce.sh --profile {name}"))
    if not (source / mark).is_file():
        raise InputError(f"{source} holds no {mark}", f"run `{command}` first")
    found = [path for pattern in KEPT for path in sorted(source.glob(pattern))]
    # The intervals of the report need what was understood at the last evaluation; of curves that
    # may turn a reader may want all of them.
    for run in source.glob("runs/*/transcripts"):
        steps = sorted(run.glob("step*.json"))
        found += steps if name == "turn" else steps[-1:]
    finished = {path.parent for path in source.glob("runs/*/provenance.json")}
    found = [p for p in found if "runs" not in p.parts or finished & set(p.parents)]
    for path in found:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if name in PROFILES:
        # One that was trained a part at a time left the table of the last part.
        runs(f"reference/{name}").evaluations.to_csv(target / "metrics.csv", index=False)
    return target


def draw(name: str) -> None:
    """The figures of ``SHOWN`` that a committed profile has, from its runs."""
    found = runs(f"reference/{name}")
    table, note = found.evaluations, found.missing
    for kind in SHOWN[name]:
        if kind == "paired_differences":
            parts = compare.seed_by_seed(found), compare.comparisons(found)
            drawn = figures.paired(*parts, compare.MARGINS, note)
        elif kind == "wer_over_training":
            bands = None if name in PROFILES else found.wer_intervals
            drawn = figures.wer_over_training(table, note, bands)
        elif kind == "learning_against_forgetting":
            drawn = figures.learning_and_forgetting(table, note=note, cost="text_loss")
        else:
            drawn = getattr(figures, kind)(table, note)
        figures.save(drawn, found.profile.folder / "figures", kind)


def write_anew() -> None:
    """Figures, claims of committed reports that ``claims.yaml`` declares, reports, and pages."""
    for name in SHOWN:
        draw(name)
    for committed in sorted(paths.REFERENCE.glob(f"*/{report.FILE}")):
        profile = profiles.load(f"reference/{committed.parent.name}")
        for claim in claims.catalogue().values():
            if claim.decided_by is not None:
                claims.write(claim, claim.decided_by.decide(profile), {}, profile.folder)
        report.write(profile, profile.folder)
    questions = figures.paired(*report.questions(), compare.MARGINS)
    figures.save(questions, paths.REFERENCE / "figures", "questions")
    for page, blocks in readme.pages().items():
        text = page.read_text(encoding="utf-8")
        for block, content in blocks.items():
            text = readme.replace_block(text, block, content)
        write_text(page, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(publish(name))
    write_anew()
