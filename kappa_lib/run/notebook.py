"""One notebook through papermill: its parameters, what decides its execution, its failures.

An executed notebook's metadata hold a hash of what decided its execution (source, parameters, code,
and the data that the notebooks before it had left), and the hashes of the files it wrote. It is up
to date when the first is what it would be now, the files are as it left them and no corpus was
missing. While it is being executed a mark lies in ``<results>/stages``, so that an interruption at
any point is seen by the next call.
"""

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from kappa_lib import files, paths
from kappa_lib.errors import InputError, KappaError
from kappa_lib.profiles import Profile
from kappa_lib.progress import CHANNEL, append

# Written by the runner itself or by the report, not by a notebook.
_NOT_TRACKED = ("stages", "notebooks", "timings.json", "REPORT.md")
_SPLIT = "split.json"  # names the corpora that could not be had
# What a later notebook never reads; a new drawing of the same data invalidates nothing.
_DRAWN = (".png", ".svg", ".pdf", ".html")


class Record:
    """The executed notebooks of one results folder.

    Args:
        folder: ``results/<profile>``.
        order: names of the notebooks, first to last.
    """

    def __init__(self, folder: Path, order: list[str]) -> None:
        self.folder, self.order = folder, order
        self.notes = {name: self._read(name) for name in order}

    def executed(self, name: str) -> Path:
        """The executed copy of a notebook."""
        return self.folder / "notebooks" / f"{name}.ipynb"

    def mark(self, name: str) -> Path:
        """What lies in the folder while a notebook is being executed."""
        return self.folder / "stages" / f"{name}.started"

    def current(self, name: str, key: str) -> bool:
        """Whether ``name`` was executed with ``key`` and its files are as it left them.

        The one that prepares the speech is not, as long as a corpus could not be had: it asks
        again, and what it then gets makes the later ones stale.
        """
        if self.notes[name]["key"] != self._chained(name, key) or self.interrupted(name):
            return False
        # A file answers to the last notebook that has written it.
        later = self.order[self.order.index(name) + 1 :]
        others = set().union(*(self.notes[one]["files"] for one in later))
        own = {p: h for p, h in self.notes[name]["files"].items() if p not in others}
        if any(self._hash(path) != digest for path, digest in own.items()):
            return False
        split = files.read_json(self.folder / _SPLIT, dict[str, object]) if _SPLIT in own else {}
        return not split.get("missing")

    def interrupted(self, name: str) -> bool:
        """Whether an earlier call began ``name`` and did not finish it."""
        return self.mark(name).is_file()

    def start(self, name: str) -> None:
        """Note that ``name`` is about to be executed."""
        # After an interruption the first mark stays: files of the broken attempt are its own.
        if not self.interrupted(name):
            self.mark(name).parent.mkdir(parents=True, exist_ok=True)
            self.mark(name).touch()

    def finish(self, name: str, key: str, executed: Path) -> None:
        """Write into an executed copy what decided it and what it wrote, and put it in its place.

        Args:
            name: of the notebook.
            key: fingerprint of what decided the execution, data apart.
            executed: the copy, under another name until now.
        """
        kept = {p: h for p, h in self.notes[name]["files"].items() if self._hash(p)}
        written = kept | {path: self._hash(path) for path in self._since(self.mark(name))}
        note = {"key": self._chained(name, key), "files": written}
        notebook = nbformat.read(executed, as_version=4)
        notebook.metadata["kappa"] = note
        nbformat.write(notebook, executed)
        os.replace(executed, self.executed(name))
        self.notes[name] = note
        self.mark(name).unlink()

    def _read(self, name: str) -> dict[str, Any]:
        """``key`` of the execution, and ``files`` that it wrote, path → hash."""
        path = self.executed(name)
        metadata = files.read_json(path)["metadata"] if path.is_file() else {}
        return metadata.get("kappa", {"key": None, "files": {}})

    def _chained(self, name: str, key: str) -> str:
        """The key with the data that all notebooks before ``name`` have left."""
        before = [self.notes[one]["files"] for one in self.order[: self.order.index(name)]]
        data = [{p: h for p, h in left.items() if not p.endswith(_DRAWN)} for left in before]
        return files.fingerprint([key, data])

    def _hash(self, path: str) -> str | None:
        file = self.folder / path
        return files.sha256(file) if file.is_file() else None

    def _since(self, mark: Path) -> list[str]:
        began, found = mark.stat().st_mtime_ns, []
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            tracked = relative.parts[0] not in _NOT_TRACKED and ".partial" not in str(relative)
            if tracked and path.is_file() and path.stat().st_mtime_ns >= began:
                found.append(str(relative))
        return found


SHOWN_LINES = 12  # of a failing cell's traceback
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ENGINE = "kappa"


class NotebookError(KappaError):
    """A notebook that could not be executed to its end."""


def parameters(notebook: Path, profile: Profile, replaced: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of ``profile`` that a notebook is given.

    Those are the ones that its parameters cell declares, and those whose value is not the one in
    the profile's file, since the library would read that file for what the cell leaves out.

    Args:
        notebook: the source.
        profile: the settings.
        replaced: keys whose value differs from the profile's file.

    Raises:
        InputError: the cell declares something that is no profile key.
    """
    names = list(papermill.inspect_notebook(str(notebook)))
    unknown = sorted(set(names) - set(Profile.model_fields))
    if unknown:
        raise InputError(
            f"{notebook.name}: its parameters cell declares {', '.join(unknown)}",
            "declare profile keys only (kappa_lib.profiles.Profile)",
        )
    return profile.model_dump(include={*names, *replaced}) if names else {}


def execution_key(notebook: Path, profile: Profile) -> str:
    """Fingerprint of what decides an execution: cells, profile, code, claims, pins and Python.

    And, of a notebook that reads them, the committed results.
    """
    code = [p for p in sorted(paths.PACKAGE.rglob("*")) if p.suffix in (".py", ".json", ".yaml")]
    code = [p for p in code if p.parent.name != "profiles"]  # the profile's values stand below
    cells = nbformat.read(notebook, as_version=4).cells
    return files.fingerprint(
        {
            "cells": [[cell.cell_type, cell.source] for cell in cells],
            "profile": profile.model_dump(),
            "recordings": _recordings(profile),
            "weights": _local_models(profile),
            "committed": _committed(cells),
            "code": [[str(p.relative_to(paths.PACKAGE)), files.sha256(p)] for p in code],
            "pins": files.sha256(paths.LOCK),
            "python": platform.python_version(),
        }
    )


def _recordings(profile: Profile) -> list[Any]:
    """The files of one's own corpora: sizes and times."""
    if not profile.corpora:
        return []
    from kappa_lib.speech.sources import OwnSpeech  # heavy, and most profiles have none

    return [OwnSpeech(**own).origin(name) for name, own in profile.corpora.items()]


def _local_models(profile: Profile) -> list[Any]:
    """The models that lie in folders of one's own: their files' names, sizes and times."""
    named = map(paths.expanded, (profile.model, profile.encoder))
    if not (folders := [folder for folder in named if folder.is_dir()]):
        return []
    from kappa_lib.weights import models  # heavy, and most profiles have none

    inside = [(path, path.stat()) for folder in folders for path in models.parts(folder)]
    return [[str(path), status.st_size, status.st_mtime_ns] for path, status in inside]


def _committed(cells: list[NotebookNode]) -> list[Any]:
    """The committed results, for notebooks that read them through ``evidence.elsewhere``."""
    if not any("elsewhere" in cell.source for cell in cells if cell.cell_type == "code"):
        return []
    found = (path for path in sorted(paths.REFERENCE.rglob("*")) if path.is_file())
    read = [path for path in found if not path.name.endswith(_DRAWN)]
    return [[str(path.relative_to(paths.REFERENCE)), files.sha256(path)] for path in read]


def execute(notebook: Path, values: dict[str, Any], folder: Path) -> Path:
    """Execute one notebook in its own folder, and return the executed copy.

    Args:
        notebook: the source, which stays as it is.
        values: of the parameters.
        folder: where the copy goes; its name ends in ``.unfinished.ipynb``.

    Raises:
        NotebookError: a cell failed or the kernel died; says which cell, the error's last lines
            and where the part that was executed is.
    """
    partial = folder / f"{notebook.stem}.unfinished.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(partial),
            parameters=values,
            cwd=str(notebook.parent),
            engine_name=_ENGINE,
            progress_bar=False,
            # The kernel's own remarks on transport and interrupts are no news to the reader.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        remedy = "after a change, the same command goes on from the last finished stage"
        raise NotebookError(_cell_message(notebook, error, partial), remedy) from error
    except DeadKernelError as error:
        remedy = (
            "most often the system ended it for want of memory: close other programs or take a"
            " smaller profile, then call the same command again; it goes on from the last finished"
            " stage"
        )
        raise NotebookError(_dead_message(notebook, partial), remedy) from error
    return partial


def _cell_message(notebook: Path, error: PapermillExecutionError, partial: Path) -> str:
    trace = _ANSI.sub("", "\n".join(error.traceback)).splitlines()[-SHOWN_LINES:]
    shown = "\n".join(f"    {text}" for text in trace or [f"{error.ename}: {error.evalue}"])
    return (
        f"{notebook.name} failed in cell [{error.exec_count}]:\n{shown}\n"
        f"  What was executed so far: {partial}"
    )


def _dead_message(notebook: Path, partial: Path) -> str:
    memory = psutil.virtual_memory()
    cells = nbformat.read(partial, as_version=4).cells if partial.is_file() else []
    # The kernel's own count of the last cell may have died with it; papermill's note has not.
    begun = [c for c in cells if c.cell_type == "code" and c.metadata.papermill.get("start_time")]
    where = f"in cell [{len(begun)}]" if begun else "before its first cell"
    return (
        f"{notebook.name}: the kernel died {where} ({memory.available / 1e9:.1f} of "
        f"{memory.total / 1e9:.1f} GB of memory are free now)\n"
        f"  What was executed so far: {partial}"
    )


class _Engine(NBClientEngine):
    """Papermill's own engine, which also reports the cell that is about to be executed."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        start, places = nb_man.cell_start, _places(nb_man.nb.cells)

        def reporting(cell: NotebookNode, cell_index: int, **rest: Any) -> Any:
            if (channel := os.environ.get(CHANNEL)) and cell_index in places:
                append(channel, {"cell": places[cell_index]})
            return start(cell, cell_index, **rest)

        nb_man.cell_start = reporting
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


def _places(cells: list[NotebookNode]) -> dict[int, str]:
    """Index of each code cell → how a person finds it: number, of how many, under which heading."""
    number = sum(cell.cell_type == "code" for cell in cells)
    heading, places = "", {}
    for index, cell in enumerate(cells):
        if cell.cell_type == "code":
            where = f", {heading}" if heading else ""
            places[index] = f"cell {len(places) + 1}/{number}{where}"
        titles = re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and titles:
            heading = titles[-1]
    return places


papermill_engines.register(_ENGINE, _Engine)
