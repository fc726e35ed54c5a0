"""The ``kappa`` command and what each subcommand does.

The heavy imports wait until a command needs them, so that --help answers at once.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from kappa_lib import __version__, files, profiles
from kappa_lib.errors import InputError, KappaError, from_system
from kappa_lib.progress import Progress
from kappa_lib.text import counted

WRONG = 2  # exit status of an error that a person can act on

app = typer.Typer(
    help="The condition number κ of a model's matrices: measure it, and choose tensors by it.",
    epilog="Begin with `kappa scan path/to/model -o out`, then look at out/kappa.html.",
    rich_markup_mode=None,  # boxes neither wrap well nor read well in a log
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

Several = list[str] | None
SOURCE = (
    "Folder of safetensors, one safetensors or GGUF file, a model hub id, or smollm2-135m, the"
    " pinned default model (needs '.[speech]')."
)
METHOD = "auto: all singular values; extremes: κ alone, faster where matrices are large."
INCLUDE = "Only names like '*.mlp.*'; repeatable; without it all but embeddings and head."
SHARE = (
    "Which share of the candidates. Without any size it is the paper's, 100 of 224, so that the"
    " arms are the paper's; PEFT's find_kappa_target_modules takes 0.2."
)
ARM = "Repeatable; without it selected and inverse. An unknown name is answered with all."
DOSE = "Factors are 2^k, k drawn from -DOSE to DOSE."
Profile = Annotated[str, Option(help="A name, or the path of a YAML file.")]
SET = Option("--set", metavar="KEY=VALUE", help="Another value for a profile's key; repeatable.")


def _version(asked: bool) -> None:
    if asked:
        print(f"kappa_lib {__version__}")
        raise typer.Exit


VERSION = Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")


@app.callback()
def _common(
    version: Annotated[bool, VERSION] = False,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """What stands before a subcommand; :func:`main` reads ``--debug``."""


@app.command(epilog="Example: kappa scan Qwen/Qwen3-0.6B -o out --exclude '*.mlp.*'")
def scan(
    source: Annotated[str, Argument(help=SOURCE)],
    out: Annotated[Path | None, Option("--out", "-o", help="For tables and kappa.html.")] = None,
    compare: Annotated[str | None, Option(help="A checkpoint trained from SOURCE.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], Option()] = "auto",
    method: Annotated[Literal["auto", "extremes", "svd"], Option(help=METHOD)] = "auto",
    include: Annotated[Several, Option(metavar="PATTERN", help=INCLUDE)] = None,
    exclude: Annotated[Several, Option(metavar="PATTERN", help="Skip these; repeatable.")] = None,
) -> None:
    """Measure κ of every matrix of a checkpoint, and what training changed of it."""
    from kappa_lib.spectra.compare import compare as compared
    from kappa_lib.spectra.scan import scan as measure

    same = {"device": device, "include": include or [], "exclude": exclude or []}
    changes = None
    if compare:  # first, for it refuses at once what can't be compared
        with Progress("compare") as bar:
            changes = compared(source, compare, out, progress=bar.reach, **same)
    with Progress("scan") as bar:
        table = measure(source, out, method=method, progress=bar.reach, **same)
    by_type = table.groupby("type")
    shown = by_type["kappa"].agg(["size", "min", "median", "max"]).rename(columns={"size": "count"})
    shown["median κ/null"] = by_type["kappa_excess"].median()
    print("κ by module type; κ/null is over what a random matrix of the same shape has")
    print(shown.to_string(float_format="{:.4g}".format))
    print(f"weights: {table.attrs['basis']}")
    for why, names in table.attrs["left_out"].items():
        print(f"not measured, {why}: {', '.join(names)}")
    if changes:
        for place, names in (("first", changes.only_before), ("second", changes.only_after)):
            if names:
                print(f"only in the {place}: {counted(len(names), 'tensor')}, such as {names[0]}")
        print(changes.summary().to_string(index=False, float_format="{:.3g}".format))
    if out is None:
        print("Nothing was kept; with -o DIR, `kappa select DIR` can choose from the table")
        return
    from kappa_lib.figures import page

    print(f"{counted(len(table), 'matrix', 'matrices')} in {out}/kappa.parquet and kappa.csv")
    print(f"{page.write(table, out, changes)}: to look at in a browser")
    print(f"Next: kappa select {shlex.quote(str(out))} -o arms")


@app.command(epilog="Example: kappa select out --arm selected --share 0.2 -o arms")
def select(
    table: Annotated[Path, Argument(help="kappa.parquet of a scan, or its folder.")],
    arm: Annotated[Several, Option(help=ARM)] = None,
    count: Annotated[int | None, Option(help="How many tensors.")] = None,
    share: Annotated[float | None, Option(help=SHARE)] = None,
    seed: Annotated[int, Option(min=0, help="Seed of random arms.")] = 0,
    out: Annotated[Path, Option("--out", "-o", help="Where the selections go.")] = Path(),
) -> None:
    """Choose tensors from a κ table: as JSON, for PEFT and for Axolotl."""
    from kappa_lib.spectra import kappa_table, selection
    from kappa_lib.weights import kinds

    if count is not None and share is not None:
        raise InputError("two sizes", "give one of --count, --share")
    found = kappa_table.read(table)
    size = {"count": count} if share is None else {"share": share}
    files.require_folder(out)
    # All of them before the first is written: an impossible one leaves nothing half done.
    arms = arm or ["selected", "inverse"]
    selections = [selection.select(found, name, seed=seed, **size) for name in arms]
    for chosen in selections:
        chosen.save(out / f"{chosen.arm}.json")
    for chosen in selections:
        written = [f"{chosen.arm}.json", *(path.name for path in chosen.export(out))]
        size = f"{counted(len(chosen.tensors), 'tensor')}, {chosen.parameters:,} parameters"
        print(f"{out / chosen.arm}: {size} ({', '.join(written)})")
    for why, names in kinds.by_reason(found.attrs.get("not_adapted", {})).items():
        print(f"left out, {why}: {', '.join(names)}")
    if why := found.attrs.get("not_tried"):
        print(f"not tried with PEFT: {why}")


@app.command(epilog="Example: kappa regauge smollm2-135m -o same-function --seed 1")
def regauge(
    model: Annotated[str, Argument(help="Folder of safetensors, a model hub id, or smollm2-135m.")],
    out: Annotated[Path, Option("--out", "-o", metavar="FOLDER", help="New folder to write to.")],
    seed: Annotated[int, Option(help="Seed of the random factors.")] = 0,
    dose: Annotated[int, Option(min=1, help=DOSE)] = 6,
    flip: Annotated[bool, Option("--flip", help="Make κ of the MLP the largest instead.")] = False,
) -> None:
    """Write a checkpoint with the same outputs, bit for bit, but another κ."""
    from kappa_lib.spectra import gauge
    from kappa_lib.weights import models

    def change(found: list[gauge.Symmetry]) -> gauge.Gauge:
        return gauge.flipped(found, seed) if flip else gauge.drawn(found, seed, dose)

    note = {"model": model, "seed": seed} | ({"flip": True} if flip else {"dose": dose})
    gauge.write(models.weights(model), out, change, note)
    print(f"{out}: the function of {model} in another gauge, see {out / 'regauge.json'}")
    print(f"Next: kappa scan {shlex.quote(str(out))} -o regauged")


@app.command(epilog="Example: kappa run --profile smoke --only 04 --set steps=8")
def run(
    profile: Profile = "laptop",
    only: Annotated[Several, Option(metavar="NN", help="This notebook only; repeatable.")] = None,
    settings: Annotated[Several, SET] = None,
) -> None:
    """Execute the notebooks with a profile, then write the report."""
    loaded = profiles.load(profile, **dict(map(profiles.parse_setting, settings or [])))

    from kappa_lib.run import runner

    print(f"done: {runner.run(loaded, profile, only or [])}")


@app.command(epilog="Example: kappa train --profile laptop --arm selected --set steps=40")
def train(
    profile: Profile = "laptop",
    arm: Annotated[Several, Option(help="Repeatable; else the profile's.")] = None,
    seed: Annotated[list[int] | None, Option(min=0, help="Repeatable; else the profile's.")] = None,
    settings: Annotated[Several, SET] = None,
) -> None:
    """Train the arms of a profile, or resume them.

    For several GPUs, one process per arm: CUDA_VISIBLE_DEVICES=1 kappa train --arm inverse
    """
    values = dict(map(profiles.parse_setting, settings or []))
    asked = {key: given for key, given in (("arms", arm), ("seeds", seed)) if given}
    loaded = profiles.load(profile, **values).model_copy(update=asked)

    from kappa_lib.run import stages

    experiment, arms = stages.prepare(loaded)
    for corpus, problem in experiment.data.missing.items():
        print(f"without {corpus}: {problem}", file=sys.stderr)
    table = stages.train_all(experiment, arms)
    last = table.groupby(["arm", "seed"], sort=False).tail(1).set_index(["arm", "seed"])
    print(last.filter(regex="^(step|wer_.*)$").to_string(float_format="{:.1%}".format))


@app.command(epilog="Example: kappa report --profile laptop")
def report(profile: Profile = "laptop") -> None:
    """Write REPORT.md of a profile's results."""
    from kappa_lib.evidence import report as writer

    print(writer.write(profiles.load(profile)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 2 (an error) or 130 (interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not what a caller has put there
            stream.reconfigure(errors="replace")  # Latin-1 has no κ
    try:
        app(arguments, prog_name="kappa")
    except SystemExit as ended:
        return int(ended.code or 0)
    except (KappaError, OSError, ModuleNotFoundError) as found:
        error = _extra_missing(found) if isinstance(found, ImportError) else from_system(found)
        if error is None or "--debug" in arguments:
            raise
        print(f"kappa: {error}", file=sys.stderr)
        return WRONG
    return 0


def _extra_missing(error: ImportError) -> KappaError | None:
    """What to install for a module that an extra of this package brings; None for any other."""
    name = (error.name or "").partition(".")[0]
    for line in metadata.requires("kappa-lib") or []:
        if found := re.match(rf"{re.escape(name)}\b.*; extra == \"(\w+)\"", line):
            what = f"this needs the package {name}, which the extra {found[1]!r} brings"
            return KappaError(what, f"pip install '.[{found[1]}]' in the clone of the repository")
    return None


if __name__ == "__main__":
    sys.exit(main())
