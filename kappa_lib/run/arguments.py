"""The grammar of the ``kappa`` command."""

import argparse
import math
from pathlib import Path
from typing import Any

from kappa_lib import __version__, profiles


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; what it finds has the subcommand's name as ``command``."""
    description = "The condition number of a model's matrices: measured, and trained by."
    main_parser = argparse.ArgumentParser(prog="kappa", description=description)
    main_parser.add_argument("--version", action="version", version=f"kappa_lib {__version__}")
    main_parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _scan(commands.add_parser("scan", help="measure κ of every matrix of a checkpoint"))
    _select(commands.add_parser("select", help="choose tensors from a κ table"))
    _init_profile(
        commands.add_parser("init-profile", help="write a profile for speech and a model of yours")
    )
    _train(commands.add_parser("train", help="train the arms of a profile, or go on with them"))
    _add_profile(commands.add_parser("report", help="write REPORT.md of a profile's results"))
    _plan(commands.add_parser("plan", help="say what a profile would cost, without a download"))
    doctor = commands.add_parser("doctor", help="say what would stop a run, and what to do")
    doctor.add_argument("--verify", action="store_true", help="hash every cached file")
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


def _scan(command: argparse.ArgumentParser) -> None:
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
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    methods = ("auto", "gram", "extremes", "svd")
    more = "see kappa_lib.spectra.solvers"
    command.add_argument("--method", default="auto", choices=methods, help=more)
    command.add_argument("--include", action="append", default=[], metavar="PATTERN")
    command.add_argument("--exclude", action="append", default=[], metavar="PATTERN")
    command.add_argument("--dtype", help="round the weights to this torch dtype first")
    _add_processes(command)


def _select(command: argparse.ArgumentParser) -> None:
    command.add_argument("table", type=Path, metavar="TABLE", help="kappa.parquet or its folder")
    command.add_argument("--arm", action="append", help="repeatable; default: selected and inverse")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--count", type=int, help="how many tensors")
    share = "which share of them; default: 100 of 224"
    size.add_argument("--share", type=float, default=100 / 224, help=share)
    size.add_argument("--parameters", type=int, help="as many as stay within so many parameters")
    gap = "as many as lie below the widest gap in sorted log κ"
    size.add_argument("--gap", action="store_true", help=gap)
    command.add_argument("--seed", type=int, default=0, help="of random arms")
    command.add_argument("-o", "--out", type=Path, default=Path(), metavar="DIR")


def _init_profile(command: argparse.ArgumentParser) -> None:
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


def _train(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    command.add_argument("--arm", action="append", help="repeatable; default: the profile's")
    command.add_argument("--seed", type=int, action="append", help="repeatable; the profile's")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    _add_processes(command)


def _plan(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    command.add_argument("--memory", type=_positive, metavar="GIB", help="of the device to fit")
    measured = "sustained by one device; default: as measured by runs here"
    command.add_argument("--tflops", type=_positive, help=measured)
    command.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="on N devices instead of one"
    )
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def _add_profile(command: argparse.ArgumentParser) -> None:
    kinds = "a name, or the path of a YAML file; default: laptop"
    command.add_argument("--profile", default="laptop", help=kinds)


def _add_processes(command: argparse.ArgumentParser) -> None:
    shared = "share the work among N processes, a GPU each where there are GPUs"
    command.add_argument("--processes", type=int, default=1, metavar="N", help=shared)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 999999")
    return value
