"""Execute the numbered notebooks of a profile through papermill, then write the report.

``python -m kappa_lib.run.runner --profile laptop``; ``bash reproduce.sh`` does that in a fresh
environment. Sources are never written to: executed copies go to ``results/<profile>/notebooks``.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError, KappaError, from_system
from kappa_lib.profiles import Profile
from kappa_lib.progress import CHANNEL, line
from kappa_lib.run.notebook import Record, execute, execution_key, parameters
from kappa_lib.text import clock

EVERY = 10.0  # seconds between two lines of one stage where lines cannot be overwritten


class Console:
    """Prints reports: overwriting one line on a terminal, sparingly in a log.

    Args:
        out: where to print.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.stages: dict[str, float] = {}
        self._live = self.out.isatty()
        self._open = False
        self._shown = ("", -float("inf"))

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._open:
            self.out.write("\n")
            self._open = False
        self.out.write(text + "\n")
        self.out.flush()

    def report(self, entry: dict[str, Any]) -> None:
        """Show one entry of the channel; the time of a stage that has ended is kept."""
        if "say" in entry:
            self.say(f"      {entry['say']}")
            return
        if "cell" in entry:
            if self._live or self._due("cell"):
                self._show("cell", f"      {entry['cell']}", stays=False)
            return
        what = entry["what"]
        if entry["closed"]:
            self.stages[what] = self.stages.get(what, 0.0) + entry["elapsed"]
        elif not self._live and not self._due(what):
            return
        self._show(what, f"      {line(entry)}", stays=entry["closed"])

    def _due(self, what: str) -> bool:
        last, when = self._shown
        return what not in (last, "cell") or time.monotonic() - when >= EVERY

    def _show(self, what: str, text: str, stays: bool) -> None:
        self._shown = (what, time.monotonic())
        if not self._live:
            self.say(text)
            return
        self.out.write("\r\x1b[K" + text + ("\n" if stays else ""))
        self.out.flush()
        self._open = not stays

    @contextmanager
    def following(self, channel: Path) -> Iterator[None]:
        """Show what processes that start meanwhile append to ``channel``, until the block ends."""
        channel.write_text("", encoding="utf-8")
        os.environ[CHANNEL] = str(channel)
        ended = Event()
        thread = Thread(target=self._follow, args=(channel, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            del os.environ[CHANNEL]
            ended.set()
            thread.join()
            channel.unlink(missing_ok=True)

    def _follow(self, channel: Path, ended: Event) -> None:
        with channel.open(encoding="utf-8") as stream:
            pending = ""
            while True:
                last_look = ended.is_set()
                pending += stream.read()
                *whole, pending = pending.split("\n")
                for text in whole:
                    self.report(json.loads(text))
                if last_look:
                    return
                ended.wait(0.2)


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
        source: name or path by which the notebooks find the profile's file.
    """

    def __init__(
        self,
        profile: Profile,
        notebooks: list[Path],
        console: Console,
        force: bool = False,
        source: str = "",
    ) -> None:
        self.profile, self.notebooks, self.console, self.force = profile, notebooks, console, force
        self.folder = profile.folder
        self.record = Record(self.folder, [path.stem for path in sources(notebooks[0].parent)])
        # Kernels work in the notebooks' folder, where a relative path leads elsewhere.
        by_path = source.endswith((".yaml", ".yml"))
        self.source = str(profiles.find(source)) if by_path else profile.profile
        as_filed, own = profiles.load(self.source).model_dump(), profile.model_dump()
        self.replaced = [key for key, value in own.items() if as_filed[key] != value]
        self.timings = Timings(self.folder / "timings.json", console)

    def notebook(self, source: Path, place: str) -> None:
        """Execute one notebook unless nothing it depends on has changed.

        Raises:
            NotebookError, InputError: see :func:`execute` and :func:`parameters`.
        """
        name = source.stem
        values = parameters(source, self.profile, self.replaced)
        if "profile" in values:
            values["profile"] = self.source
        key = execution_key(source, self.profile)
        if not self.force and self.record.current(name, key):
            self.console.say(f"{place} {name}: unchanged, skipped")
            return
        resumes = self.record.interrupted(name)
        self.console.say(f"{place} {name}" + (": resuming" if resumes else ""))
        self.record.start(name)
        channel = self.folder / "stages" / f"{name}.progress"
        with self.timings.measuring(name, resumes), self.console.following(channel):
            executed = execute(source, values, self.folder / "notebooks")
        self.record.finish(name, key, executed)
        self.console.say(f"{place} {name}: done in {clock(self.timings.seconds(name))}")

    def stale(self) -> bool:
        """Whether a notebook would be executed."""
        return self.force or not all(
            self.record.current(path.stem, execution_key(path, self.profile))
            for path in self.notebooks
        )


class Timings:
    """``timings.json``: seconds of the installation, and of each notebook and its stages.

    An entry is ``resumed`` when earlier work in the same folder, interrupted or finished, may
    have spared this execution a part. The time of an interrupted attempt is added to the next.
    ``first`` keeps the time of an execution that was spared nothing, for the report.

    Args:
        path: of the file.
        console: which collects the times of the stages.
    """

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self.content = files.read_json(path) if path.is_file() else {"notebooks": {}}
        installation = os.environ.get("KAPPA_INSTALL_SECONDS")
        self.content["install_seconds"] = float(installation) if installation else None

    def seconds(self, name: str) -> float:
        """What a notebook took, interrupted attempts included."""
        return self.content["notebooks"][name]["seconds"]

    @contextmanager
    def measuring(self, name: str, resumes: bool = False) -> Iterator[None]:
        """Record the time that the block takes, whether or not it fails.

        Args:
            name: of the notebook.
            resumes: whether its last execution did not come to its end.
        """
        before = self.content["notebooks"].get(name, {})
        unfinished = before and not before["finished"]
        entry: dict[str, Any] = {"resumed": resumes or bool(before), "finished": False}
        if before:
            whole = before["finished"] and not before["resumed"]
            kept = {key: before[key] for key in ("seconds", "stages")} if whole else None
            entry["first"] = before.get("first") or kept
        self.console.stages = dict(before["stages"]) if unfinished else {}
        began = time.monotonic() - (before["seconds"] if unfinished else 0.0)
        try:
            yield
            entry["finished"] = True
        finally:
            entry["seconds"] = round(time.monotonic() - began, 1)
            entry["stages"] = {name: round(took, 1) for name, took in self.console.stages.items()}
            self.content["notebooks"][name] = entry
            files.write_json(self.path, self.content)


def _chosen(only: list[str]) -> list[Path]:
    if not paths.in_clone():
        raise InputError(
            f"{paths.NOTEBOOKS}: no notebooks here; an installed package does not bring them",
            "call this in a clone of the repository, in an environment made by `bash reproduce.sh`",
        )
    found = [path for path in sources() if not only or path.name.startswith(tuple(only))]
    if not found:
        raise InputError(f"no notebook starts with {' or '.join(only)}", f"see {paths.NOTEBOOKS}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line of the runner; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kappa_lib.run.runner", description=__doc__)
    parser.add_argument("--profile", default="laptop", help="default: %(default)s")
    several = {"action": "append", "default": []}
    parser.add_argument("--only", metavar="NN", help="this notebook only", **several)
    parser.add_argument("--force", action="store_true", help="execute what is unchanged, too")
    parser.add_argument("--set", metavar="KEY=VALUE", help="another profile value", **several)
    options = parser.parse_args(arguments)
    # The kernels inherit it: a warning of the debugger would be the first line of every log.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    console, began = Console(), time.monotonic()
    try:
        profile = profiles.load(options.profile, **dict(map(profiles.parse_setting, options.set)))
        if profile.task != "speech":
            raise InputError(
                f"profile {profile.profile} is of text; the notebooks that train are about speech",
                f"call `kappa train --profile {options.profile}`, and see notebook 6",
            )
        if missing := {"selected", "inverse"} - set(profile.arms):
            raise InputError(
                f"profile {profile.profile} has no arm {', '.join(sorted(missing))}, and the"
                " notebooks compare `selected` with `inverse`",
                f"add it to `arms`, or call `kappa train --profile {options.profile}` for what"
                " notebook 6 shows",
            )
        console.say(f"profile {profile.profile}: results in {profile.folder}")
        notebooks = _chosen(options.only)
        begun = partial(Run, profile, notebooks, console, options.force, options.profile)
        with files.alone(profile.folder):
            execution = begun()
            for index, source in enumerate(notebooks, start=1):
                execution.notebook(source, f"[{index}/{len(notebooks)}]")
            # A report on a part of the notebooks would have to do the others' work.
            if not options.only:
                from kappa_lib.evidence import report  # heavy

                report.write(profile)
    except (KappaError, OSError) as error:
        console.say(f"\n{from_system(error)}")
        return 1
    except KeyboardInterrupt:
        console.say("\ninterrupted; the same command goes on from the last finished stage")
        return 130
    made = profile.folder / ("notebooks" if options.only else "REPORT.md")
    console.say(f"done in {clock(time.monotonic() - began)}: {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
