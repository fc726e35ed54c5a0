"""What each executed notebook says of itself, and whether it has to be executed again.

Its metadata hold a hash of what decided its execution (source, parameters, code, and the data that
the notebooks before it had left), and the hashes of the files it wrote. It is up to date when the
first is what it would be now and the files are as it left them. While it is being executed a mark
lies in ``<results>/stages``, so that an interruption at any point is seen by the next call.
"""

import os
from pathlib import Path
from typing import Any

import nbformat

from kappa_lib import files

# Written by the runner itself or by the report, not by a notebook.
_NOT_TRACKED = ("stages", "notebooks", "timings.json", "REPORT.md")
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
        """Whether ``name`` was executed with ``key`` and its files are as it left them."""
        note = self.notes[name]
        if note.get("key") != self._chained(name, key) or self.interrupted(name):
            return False
        return all(self._hash(path) == digest for path, digest in self._answers_for(name).items())

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
        kept = {p: h for p, h in self.notes[name].get("files", {}).items() if self._hash(p)}
        written = kept | {path: self._hash(path) for path in self._since(self.mark(name))}
        note = {"key": self._chained(name, key), "files": written}
        notebook = nbformat.read(executed, as_version=4)
        notebook.metadata["kappa"] = note
        nbformat.write(notebook, executed)
        os.replace(executed, self.executed(name))
        self.notes[name] = note
        self.mark(name).unlink()

    def _read(self, name: str) -> dict[str, Any]:
        path = self.executed(name)
        return dict(files.read_json(path)["metadata"].get("kappa", {})) if path.is_file() else {}

    def _chained(self, name: str, key: str) -> str:
        """The key with the data that all notebooks before ``name`` have left."""
        before = self.order[: self.order.index(name)]
        data = [
            {p: h for p, h in self.notes[other].get("files", {}).items() if not p.endswith(_DRAWN)}
            for other in before
        ]
        return files.fingerprint([key, data])

    def _answers_for(self, name: str) -> dict[str, str]:
        """The files that ``name`` wrote and no notebook after it has written since."""
        later = self.order[self.order.index(name) + 1 :]
        others = set().union(*(self.notes[other].get("files", {}) for other in later))
        return {p: h for p, h in self.notes[name]["files"].items() if p not in others}

    def _hash(self, path: str) -> str | None:
        file = self.folder / path
        return files.sha256(file) if file.is_file() else None

    def _since(self, mark: Path) -> list[str]:
        began, found = mark.stat().st_mtime_ns, []
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            if relative.parts[0] in _NOT_TRACKED or ".partial" in path.name or not path.is_file():
                continue
            if path.stat().st_mtime_ns >= began:
                found.append(str(relative))
        return found
