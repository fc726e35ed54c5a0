"""Execute the numbered notebooks of a profile through papermill, then write the report.

``python -m kappa_lib.runner --profile laptop``; ``bash reproduce.sh`` does that in a fresh
environment. Sources are never written to: executed copies go to ``results/<profile>/notebooks``.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kappa_lib import files, paths, profiles
from kappa_lib.console import Console
from kappa_lib.errors import InputError, KappaError
from kappa_lib.ledger import Ledger, alone
from kappa_lib.notebook import declared, execute, execution_key
from kappa_lib.profiles import Profile
from kappa_lib.progress import CHANNEL, clock


def sources(folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


class Run:
    """One pass over the notebooks of a profile.

    Args:
        profile: the settings.
        notebooks: what to execute, in order.
        console: where progress is shown.
        force: execute even what is unchanged.
    """

    def __init__(
        self, profile: Profile, notebooks: list[Path], console: Console, force: bool = False
    ) -> None:
        self.profile, self.notebooks, self.console, self.force = profile, notebooks, console, force
        self.folder = profile.folder
        self.ledger = Ledger(self.folder, [path.stem for path in sources(notebooks[0].parent)])
        self.timings = Timings(self.folder / "timings.json")

    def notebook(self, source: Path, place: str) -> None:
        """Execute one notebook unless nothing it depends on has changed.

        Raises:
            NotebookError, InputError: see :func:`execute` and :func:`declared`.
        """
        name = source.stem
        parameters = declared(source, self.profile)
        key = execution_key(source, parameters)
        if not self.force and self.ledger.current(name, key):
            self.console.say(f"{place} {name}: unchanged, skipped")
            return
        resumed = self.ledger.interrupted(name)
        self.console.say(f"{place} {name}" + (": resuming" if resumed else ""))
        self.ledger.start(name)
        target = self.folder / "notebooks" / source.name
        began, self.console.stages = time.monotonic(), {}
        channel = self.folder / "stages" / f"{name}.progress"
        with self.console.following(channel), _environment(CHANNEL, str(channel)):
            execute(source, parameters, target)
        self.ledger.finish(name, key, target)
        seconds = time.monotonic() - began
        self.timings.notebook(name, seconds, resumed, self.console.stages)
        self.console.say(f"{place} {name}: done in {clock(seconds)}")

    def report(self) -> None:
        """Write the report of what is in the results folder."""
        from kappa_lib import report

        with self.ledger.written_by_another():
            report.write(self.profile)

    def everything(self) -> None:
        """All notebooks, then the report."""
        for index, source in enumerate(self.notebooks, start=1):
            self.notebook(source, f"[{index}/{len(self.notebooks)}]")
        self.report()


class Timings:
    """``timings.json``: seconds of the installation, and of each notebook and its stages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = files.read_json(path) if path.is_file() else {"notebooks": {}}
        installation = os.environ.get("KAPPA_INSTALL_SECONDS")
        self.content["install_seconds"] = float(installation) if installation else None

    def notebook(self, name: str, seconds: float, resumed: bool, stages: dict[str, float]) -> None:
        """Record an execution; ``resumed`` says that an interrupted one had done a part of it."""
        self.content["notebooks"][name] = {
            "seconds": round(seconds, 1),
            "resumed": resumed,
            "stages": {what: round(took, 1) for what, took in stages.items()},
        }
        files.write_json(self.path, self.content)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set {text}", "write it as KEY=VALUE, for instance seeds=[0,1]")
    return key, yaml.safe_load(value)


def _chosen(only: list[str]) -> list[Path]:
    found = [path for path in sources() if not only or path.name.startswith(tuple(only))]
    if not found:
        raise InputError(f"no notebook starts with {' or '.join(only)}", f"see {paths.NOTEBOOKS}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line of the runner; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kappa_lib.runner", description=__doc__)
    parser.add_argument("--profile", default="laptop", help="default: %(default)s")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NN", help="this notebook only"
    )
    parser.add_argument("--force", action="store_true", help="execute what is unchanged, too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another profile value"
    )
    options = parser.parse_args(arguments)
    # The kernels inherit it: a warning of the debugger would be the first line of every log.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    console, began = Console(), time.monotonic()
    try:
        profile = profiles.load(options.profile, **dict(map(_setting, options.set)))
        console.say(f"profile {profile.profile}: results in {profile.folder}")
        with alone(profile.folder):
            Run(profile, _chosen(options.only), console, options.force).everything()
    except KappaError as error:
        console.say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        console.say("\ninterrupted; the same command goes on from the last finished stage")
        return 130
    console.say(f"done in {clock(time.monotonic() - began)}: {profile.folder / 'REPORT.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
