"""The ``kappa`` command: its grammar, what each subcommand does, how errors reach a person."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kappa_lib import __version__, distributed, files, profiles
from kappa_lib.errors import KappaError, from_system
from kappa_lib.text import counted

WRONG = 2  # exit status of an error that a person can act on
INTERRUPTED = 130

# The heavy imports wait until a command needs them, so that --help answers at once.


def parser() -> argparse.ArgumentParser:
    """The grammar; what it finds has the subcommand's name as ``command``, and ``run`` for it."""
    description = "The condition number of a model's matrices: measured, and trained by."
    main_parser = argparse.ArgumentParser(prog="kappa", description=description)
    main_parser.add_argument("--version", action="version", version=f"kappa_lib {__version__}")
    main_parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str) -> Any:
        added = commands.add_parser(name, help=about)
        added.set_defaults(run=run)
        return added

    _scan_options(command("scan", scan, "measure κ of every matrix of a checkpoint"))
    _select_options(command("select", select, "choose tensors from a κ table"))
    about = "write a profile for speech and a model of yours"
    _init_profile_options(command("init-profile", init_profile, about))
    _train_options(command("train", train, "train the arms of a profile, or go on with them"))
    _add_profile(command("report", report, "write REPORT.md of a profile's results"))
    _plan_options(command("plan", plan, "say what a profile would cost, without a download"))
    examining = command("doctor", doctor, "say what would stop a run, and what to do")
    examining.add_argument("--verify", action="store_true", help="hash every cached file")
    return main_parser


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Profile values that ``--set``, ``--arm`` and ``--seed`` replace, where there are such.

    Raises:
        InputError: see :func:`kappa_lib.profiles.parse_setting`.
    """
    values = dict(map(profiles.parse_setting, options.set))
    if getattr(options, "arm", None):
        values["arms"] = options.arm
    if getattr(options, "seed", None):
        values["seeds"] = options.seed
    return values


def _scan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of safetensors, one safetensors or GGUF file, a model hub id,"
        " or smollm2-135m for the pinned default model",
    )
    outputs = "where the table and the page kappa.html go"
    command.add_argument("-o", "--out", type=Path, metavar="DIR", help=outputs)
    second = "a second checkpoint of the same shapes: what did training change?"
    command.add_argument("--compare", metavar="OTHER", help=second)
    devices = ("auto", "cpu", "cuda")
    where = "default: auto, CUDA where there is one"
    command.add_argument("--device", default="auto", choices=devices, help=where)
    methods = ("auto", "gram", "extremes", "svd")
    more = "default: auto, all singular values; extremes: κ alone, faster where matrices are large"
    command.add_argument("--method", default="auto", choices=methods, help=more)
    kept = "measure names like '*.mlp.*' alone; repeatable; default: all but embeddings and head"
    command.add_argument("--include", action="append", default=[], metavar="PATTERN", help=kept)
    left = "leave such names out, '*vision*' for instance; repeatable"
    command.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help=left)
    command.add_argument("--dtype", help="round the weights to this torch dtype first")
    _add_processes(command)


def _select_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("table", type=Path, metavar="TABLE", help="kappa.parquet or its folder")
    kinds = "repeatable; default: selected and inverse; an unknown one lists them all"
    command.add_argument("--arm", action="append", help=kinds)
    size = command.add_mutually_exclusive_group()
    size.add_argument("--count", type=int, help="how many tensors")
    share = "which share of them; default: 100 of 224"
    size.add_argument("--share", type=float, default=100 / 224, help=share)
    size.add_argument("--parameters", type=int, help="as many as stay within so many parameters")
    gap = "as many as lie below the widest gap in sorted log κ"
    size.add_argument("--gap", action="store_true", help=gap)
    command.add_argument("--seed", type=int, default=0, help="of random arms")
    here = "where the selections go; default: here"
    command.add_argument("-o", "--out", type=Path, default=Path(), metavar="DIR", help=here)


def _init_profile_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--speech",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="sound files beside a metadata.csv with file_name and the transcripts,"
        " Parquet files with an audio column, or a saved dataset",
    )
    command.add_argument("--language", required=True, help="en, de, ...")
    column = "of the transcripts; default: text"
    command.add_argument("--text", default="text", metavar="COLUMN", help=column)
    command.add_argument(
        "--model",
        default="smollm2-135m",
        metavar="FOLDER_OR_ID",
        help="a Llama model's folder or hub id; default: the pinned default model",
    )
    command.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.yaml")


def _train_options(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    command.add_argument("--arm", action="append", help="repeatable; default: the profile's")
    seeds = "repeatable; default: the profile's"
    command.add_argument("--seed", type=int, action="append", help=seeds)
    _add_set(command)
    _add_processes(command)


def _plan_options(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    command.add_argument("--memory", type=float, metavar="GIB", help="of the device to fit")
    measured = "sustained by one device; default: as measured by runs here"
    command.add_argument("--tflops", type=float, help=measured)
    command.add_argument(
        "--processes", type=int, default=1, metavar="N", help="on N devices instead of one"
    )
    _add_set(command)


def _add_set(command: argparse.ArgumentParser) -> None:
    other = "another value for a key of the profile; repeatable"
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=other)


def _add_profile(command: argparse.ArgumentParser) -> None:
    kinds = "a name, or the path of a YAML file; default: laptop"
    command.add_argument("--profile", default="laptop", help=kinds)


def _add_processes(command: argparse.ArgumentParser) -> None:
    shared = "share the work among N processes, a GPU each where there are GPUs"
    command.add_argument("--processes", type=int, default=1, metavar="N", help=shared)


def scan(options: argparse.Namespace) -> int:
    """``kappa scan``: checkpoint → κ table, a page, and what a second checkpoint changed."""
    from kappa_lib.progress import Stages
    from kappa_lib.spectra.compare import compare
    from kappa_lib.spectra.scan import scan as measure
    from kappa_lib.weights import models

    with distributed.main_process_first():
        sources = [
            models.weights(source) if source == models.DEFAULT else source
            for source in (options.source, options.compare)
        ]
    same = {key: getattr(options, key) for key in ("device", "include", "exclude", "dtype")}
    # First, for it refuses at once what can't be compared.
    changes = None
    if options.compare:
        changes = compare(*sources, options.out, progress=partial(Stages(), "compare"), **same)
    scanning = {"method": options.method, "progress": partial(Stages(), "scan"), **same}
    table = measure(sources[0], options.out, **scanning)
    summary = table.groupby("type")["kappa"].describe()[["count", "min", "50%", "max"]]
    summary["count"] = summary["count"].astype(int)
    _print(summary.rename(columns={"50%": "median"}).to_string(float_format="{:.4g}".format))
    if options.out:
        found = counted(len(table), "matrix", "matrices")
        _print(f"{found} in {options.out}/kappa.parquet and kappa.csv")
    if changes:
        for place, names in (("first", changes.only_before), ("second", changes.only_after)):
            if names:
                found = counted(len(names), "tensor")
                _print(f"only in the {place}: {found}, {names[0]} among them")
        shown = changes.summary().query("by == 'type'").drop(columns="by")
        _print(shown.to_string(index=False, float_format="{:.3g}".format))
    if options.out and distributed.is_main_process():
        from kappa_lib.figures import page

        path, *_ = page.write(table, options.out, changes)
        lacking = find_spec("matplotlib") is None
        print(f"{path}: to look at in a browser" + (f"; {page.NO_PICTURES}" if lacking else ""))
    return 0


def select(options: argparse.Namespace) -> int:
    """``kappa select``: κ table → the tensors of each arm, as JSON and for PEFT and Axolotl."""
    from kappa_lib.spectra import kappa_table, selection

    table = kappa_table.read(options.table)
    count = selection.count_below_gap(table) if options.gap else options.count
    if count is None:
        count = selection.count_for(table, options.share)

    def chosen_of(arm: str) -> selection.Selection:
        if options.parameters is not None:
            return selection.select_within(table, arm, options.parameters, options.seed)
        return selection.select(table, arm, count, options.seed)

    files.require_folder(options.out)
    arms = options.arm or ["selected", "inverse"]
    # All of them before the first is written: an impossible one leaves nothing half done.
    selections = [chosen_of(arm) for arm in arms]
    for chosen in selections:
        chosen.save(options.out / f"{chosen.arm}.json")
    for chosen in selections:
        paths = chosen.export(options.out, table)
        written = ", ".join([f"{chosen.arm}.json", *(path.name for path in paths)])
        size = f"{counted(len(chosen.tensors), 'tensor')}, {chosen.parameters:,} parameters"
        print(f"{options.out / chosen.arm}: {size} ({written})")
    return 0


def train(options: argparse.Namespace) -> int:
    """``kappa train``: the arms and seeds of a profile, with everything they need first."""
    profile = profiles.load(options.profile, **overrides(options))

    from kappa_lib.run import stages

    with files.alone(profile.folder) if distributed.is_main_process() else nullcontext():
        experiment, arms = stages.prepare(profile)
        for corpus, problem in experiment.data.missing.items():
            _print(f"without {corpus}: {problem}", file=sys.stderr)
        table = stages.train_all(experiment, arms)
    last = table.groupby(["arm", "seed"], sort=False).tail(1).set_index(["arm", "seed"])
    rates = [name for name in last.columns if name.startswith("wer_")]
    _print(last[["step", *rates]].to_string(float_format="{:.1%}".format))
    return 0


def report(options: argparse.Namespace) -> int:
    """``kappa report``: what is in a profile's results folder → REPORT.md."""
    profile = profiles.load(options.profile)

    from kappa_lib.evidence import report as writer

    writer.write(profile)
    print(profile.folder / "REPORT.md")
    return 0


def plan(options: argparse.Namespace) -> int:
    """``kappa plan``: what a profile would cost, before anything is downloaded."""
    from kappa_lib.run import plan_text

    limits = options.memory, options.tflops, options.processes
    print(plan_text.main_text(options.profile, *limits, **overrides(options)), end="")
    return 0


def init_profile(options: argparse.Namespace) -> int:
    """``kappa init-profile``: a folder of recordings → a commented profile to start from."""
    from kappa_lib.run import init_profile as writer

    given = options.speech, options.language, options.text, options.model
    writer.write(options.out, *given)
    print(f"{options.out}: read it, then `bash reproduce.sh --profile {options.out}`")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """``kappa doctor``: everything that would stop a run; fails when something does."""
    from kappa_lib.run import doctor as examiner

    found = []
    for check in examiner.examine(options.verify):
        print(check, flush=True)
        found.append(check.level)
    print(f"{found.count('fail')} to mend, {found.count('warn')} to know")
    return 1 if "fail" in found else 0


def _print(text: str, **where: Any) -> None:
    """Print once, however many processes do this."""
    if distributed.is_main_process():
        print(text, **where)


def _extra_of(module: str) -> str:
    """The extra of this package that brings a missing module, empty where none does."""
    for line in metadata.requires("kappa-lib") or []:
        if found := re.match(rf"{module.partition('.')[0]}\b.*; extra == \"(\w+)\"", line):
            return found[1]
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 (found faults), 2 (error), 130."""
    options = parser().parse_args(arguments)
    try:
        several = options.command in ("scan", "train") and options.processes != 1
        if several and not distributed.launched():
            from kappa_lib.run.launch import launch

            given = sys.argv[1:] if arguments is None else arguments
            device = getattr(options, "device", None)  # of a scan; else the profile says it
            device = device or profiles.load(options.profile, **overrides(options)).device
            launch(given, options.processes, device)
            return 0
        status = options.run(options)
        distributed.shut_down()
        return status
    except (KappaError, OSError) as found:
        if options.debug:
            raise
        error = from_system(found)
        who = "kappa" if distributed.is_main_process() else f"kappa, process {distributed.rank()}"
        if distributed.is_main_process() or not error.of_all:
            print(f"{who}: {error}", file=sys.stderr)
        return WRONG
    except ModuleNotFoundError as error:
        if options.debug or not (extra := _extra_of(error.name or "")):
            raise
        missing = KappaError(
            f"this needs the package {error.name}, which the extra {extra!r} brings",
            f"pip install '.[{extra}]' in the clone of the repository",
        )
        print(f"kappa: {missing}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it can", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
