"""Keep the small results of a run in the repository, and the pages' tables true to them.

``python -m tools.reference laptop`` copies from ``results/laptop`` to
``results/reference/laptop`` and writes the generated tables from the copy; with ``bench`` the same
for what the benchmark measured, with those of ``PROFILES`` the same for the runs that are
finished, be they all or not.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import arms, elsewhere, report, tables
from kappa_lib.figures import training
from kappa_lib.figures.style import save
from kappa_lib.files import read_json, replacing, write_text
from kappa_lib.run import plan
from kappa_lib.text import markdown
from tools import readme

SPEED, SIZE = (paths.ROOT / "docs" / f"{name}.md" for name in ("speed", "paper-size"))
TABLES = paths.REFERENCE / "README.md"  # every run's
KEPT = (
    "REPORT.md",
    "metrics.csv",
    "pairs.csv",
    "pilot.csv",
    "kappa.csv",
    "split.json",
    "timings.json",
    "claims/*.json",
    "figures/*",
    "selections/*.json",
    "runs/*/config.json",
    "runs/*/metrics.jsonl",
    "runs/*/provenance.json",
    "runs/*/spectra.csv",
    "bench.*",
)
# Profiles that are trained without notebooks and committed as far as they have come.
PROFILES = ("cause", "understood", "type", "long", "text", "turn")
# What marks a finished run, and what to call for one.
FINISHED = {
    "bench": ("bench.json", "bash reproduce.sh bench"),
    **{name: ("stages/select.json", f"kappa train --profile {name}") for name in PROFILES},
}


def publish(name: str) -> Path:
    """Copy a finished run's small files to ``results/reference`` and update the pages.

    Args:
        name: a profile or a benchmark.

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
    with replacing(target) as temporary:
        for path in found:
            copy = temporary / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        shutil.rmtree(target, ignore_errors=True)
    draw(name)
    write_pages()
    return target


def draw(name: str) -> None:
    """What no notebook draws: of a profile its table and figure, and the figure of all questions.

    A profile that was trained a part at a time left the table of the last part. One of too few
    seeds to be told has no figures yet.
    """
    if name not in PROFILES:
        return
    with paths.results_under(paths.REFERENCE):
        profile = tables.of_runs(name)
        table = tables.results(profile)
        table.to_csv(profile.folder / "metrics.csv", index=False)
        if not readme.maybe(name):
            return
        folder = profile.folder / "figures"
        if name in ("turn", "long"):
            curve = training.wer_over_training(table, human_trained=True)
            save(curve, folder, "wer_over_training")
        else:
            save(_paired(arms.outcomes(table)), folder, "paired_differences")
        save(_paired(elsewhere.questions()), paths.REFERENCE / "figures", "questions")


def _paired(found: pd.DataFrame) -> Figure:
    margins = {outcome: arms.margin_of(outcome) for outcome in training.OUTCOMES}
    return training.paired(found, arms.summary(found), margins)


def write_pages() -> None:
    """Write the generated parts of the pages on speed, size and every run anew."""
    with paths.results_under(paths.REFERENCE):
        for page, found in pages().items():
            text = page.read_text(encoding="utf-8")
            for block, content in found.items():
                text = readme.replace_block(text, block, content)
            write_text(page, text)


def pages() -> dict[Path, dict[str, str]]:
    """Page → the parts generated from ``results/reference``; needs it as ``KAPPA_RESULTS``."""
    names = ("bench", "scale", "steps", "paper_size")
    bench, scale, steps, at_size = (
        read_json(paths.REFERENCE / name / f"{name}.json") for name in names
    )
    on_a_gpu = read_json(paths.REFERENCE / "bench_gpu" / "bench.json")
    told = [bench_table(bench), scale_sentence(scale), steps_sentence(steps)]
    return {
        SPEED: {"benchmark": "\n\n".join(told), "gpu": gpu(on_a_gpu, at_size)},
        SIZE: {"plan": plan_table()},
        TABLES: runs(),
    }


def runs() -> dict[str, str]:
    """The generated parts of the page of tables: as :func:`blocks`, a profile's name each."""
    written = {
        "cause": readme.cause_by_text,
        "understood": readme.cause_by_text,
        "type": readme.cause,
        "long": readme.cause,
        "turn": readme.turn,
        "text": readme.text,
        "study": readme.study,
    }
    committed = {name: readme.maybe(name) for name in written}
    return {name: written[name](profile) for name, profile in committed.items() if profile}


def plan_table() -> str:
    """What the profiles of the paper's size take, by `kappa plan`; nothing of it was measured."""
    names = [name for name in profiles.names() if name.startswith("paper")]
    columns = ["profile", "trained, selected / inverse", "GB, AdamW", "GB, Adafactor"]
    return (
        markdown(columns, map(_plan_row, names))
        + "\n\nBillions are parameters of the language model; the selections are those of an"
        " untrained model of these shapes, until a scan knows better. GB are weights, gradients"
        " and the optimiser's states of the largest arm; activations come on top."
    )


def _plan_row(name: str) -> list[str]:
    profile = profiles.load(name)
    optimisers = ({"optimiser": name} for name in ("adamw", "adafactor"))
    ways = [plan.arms(profile.model_copy(update=changes)) for changes in optimisers]
    trained = ways[0]["parameters"] / 1e9
    memory = (way[["weights", "gradients", "optimiser"]].sum(axis=1).max() for way in ways)
    return [
        f"`{name}`",
        f"{trained['selected']:.2f} / {trained['inverse']:.2f} billion",
        *(f"{size:.0f}" for size in memory),
    ]


def gpu(measured: dict, at_size: dict) -> str:
    """Seconds of every route on a GPU, and of the scan of a checkpoint of Llama-3-8B's shapes."""
    scan, layers = at_size["scan"], at_size["layers"]
    ends, rows = scan["extremes"], scan["auto"]
    where = scan["provenance"]
    return (
        f"{bench_table(measured)}\n\nA checkpoint of {layers} layers of Llama-3-8B's shapes, random"
        f" bf16 weights on the disk: κ alone of all {ends['matrices']} matrices took"
        f" {ends['seconds']:.0f} s and at most {ends['peak_gib']:.1f} GiB of the GPU, the whole row"
        f" {rows['seconds'] / rows['matrices']:.2f} s a matrix; on one {where['device']} with torch"
        f" {where['packages']['torch']}."
    )


def bench_table(measured: dict) -> str:
    """Seconds of every route on a Llama-3-8B layer, and on the default model, and the goals."""
    layer, model = measured["layer"], measured.get("model", {}).get("seconds", {})
    rows = []
    for route, seconds in layer["seconds"].items():
        errors = [part["routes"][route]["error"] for part in layer["parts"].values()]
        ratio = layer["seconds"]["torch.linalg.svdvals, fp32"] / seconds
        cells = f"{seconds:.3g}", f"{ratio:.1f} ×", f"{max(errors):.0e}"
        rows.append([route, *cells, *([f"{model[route]:.1f}"] if model else [])])
    goals = []
    for goal in measured["verdicts"]:
        # Which way it goes is not on record, but follows.
        below = (goal["measured"] <= goal["goal"]) == goal["reached"]
        asked = f"at {'most' if below else 'least'} {goal['goal']:g}"
        word = "reached" if goal["reached"] else "missed"
        goals.append([goal["what"], asked, f"{goal['measured']:.3g}", word])
    commands = [f"`{name}` {took:.0f} s" for name, took in measured.get("commands", {}).items()]
    beside = f" As commands on the default model: {', '.join(commands)}." if commands else ""
    machine = measured["machine"]
    where = f"{machine['cores']} cores, load {machine['load_average']:.0f} at the start"
    if (device := machine["device"]) != "cpu":
        where = f"one {device}"
    columns = [
        "route",
        "a layer of Llama-3-8B's shapes, s",
        "against svdvals",
        "largest error of κ",
        *(["the default model, s"] if model else []),
    ]
    told = [f"On {where}.{beside}", markdown(["goal", "asked", "measured", ""], goals)]
    return "\n\n".join([markdown(columns, rows), *told])


def scale_sentence(found: dict) -> str:
    """Time and memory of the scan of a checkpoint of Llama-3-8B's shapes."""
    return (
        f"A checkpoint of Llama-3-8B's shapes ({found['matrices']} matrices,"
        f" {found['checkpoint_gb']:.1f} GB of bf16 shards) took `kappa scan --method"
        f" {found['method']}` {found['seconds'] / 60:.0f} minutes beside other work, with"
        f" {found['peak_gib']:.2f} GiB of memory at the peak."
    )


def steps_sentence(found: dict) -> str:
    """How our training step compares with a plain one."""
    times = " and ".join(f"in {d} {x:.2f}" for d, x in found["times_as_fast"].items())
    return (
        f"A training step of profile `{found['profile']}` on {found['machine']['cores']} cores is"
        f" {times} times as fast as a plain Hugging Face one in float32 on the same batches"
        " (`benchmarks.steps` of the tag v0.1.0)."
    )


if __name__ == "__main__":
    print(publish(sys.argv[1]))
