"""How errors reach a person at a terminal."""

import re
import sys
from importlib import metadata
from typing import Any

import typer
from typer import Context
from typer.core import TyperGroup

from kappa_lib import distributed
from kappa_lib.errors import KappaError, from_system

WRONG = 2  # exit status of an error that a person can act on
INTERRUPTED = 130


class Kappa(TyperGroup):
    """Subcommands whose errors end in a message and an exit status; with --debug, a traceback."""

    def invoke(self, ctx: Context) -> Any:
        """Run the subcommand.

        Raises:
            typer.Exit: with status 2 for what a person can mend, 130 for an interruption.
        """
        try:
            return super().invoke(ctx)
        except (KappaError, OSError, ModuleNotFoundError) as found:
            error = _extra_missing(found) if isinstance(found, ImportError) else from_system(found)
            if ctx.params["debug"] or error is None:
                raise
            who = "" if distributed.is_main_process() else f", process {distributed.rank()}"
            print(f"kappa{who}: {error}", file=sys.stderr)
            raise typer.Exit(WRONG) from found
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on where it can", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _extra_missing(error: ImportError) -> KappaError | None:
    """What to install for a module that an extra of this package brings; None for any other."""
    name = (error.name or "").partition(".")[0]
    for line in metadata.requires("kappa-lib") or []:
        if found := re.match(rf"{re.escape(name)}\b.*; extra == \"(\w+)\"", line):
            what = f"this needs the package {name}, which the extra {found[1]!r} brings"
            return KappaError(what, f"pip install '.[{found[1]}]' in the clone of the repository")
    return None
