"""What each executed notebook left behind, and whether it has to be executed again.

A notebook is up to date when its source, parameters and code are what they were, every file it
wrote is as it left it, and no notebook before it has since written other data. The record lives
in ``<results>/stages/notebooks.json``, and is updated before and after each notebook, so that an
interruption at any point is seen by the next call.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kappa_lib import files
from kappa_lib.errors import InputError

# Written by the runner itself or by the report, not by a notebook.
_NOT_TRACKED = ("stages", "notebooks", "timings.json", "REPORT.md")
# What a later notebook never reads; a new drawing of the same data invalidates nothing.
_DRAWN = (".png", ".svg", ".pdf", ".html")

Snapshot = dict[str, list[int]]


class Ledger:
    """The record of one results folder.

    Args:
        folder: ``results/<profile>``.
        order: names of the notebooks, first to last.
    """

    def __init__(self, folder: Path, order: list[str]) -> None:
        self.folder, self.order = folder, order
        self.path = folder / "stages" / "notebooks.json"
        record = files.read_json(self.path) if self.path.is_file() else {}
        self.finished: dict[str, dict[str, Any]] = record.get("finished", {})
        self.started: dict[str, Snapshot] = record.get("started", {})

    def current(self, name: str, key: str) -> bool:
        """Whether ``name`` was executed with ``key`` and its files are as it left them."""
        record = self.finished.get(name)
        if record is None or record["key"] != key:
            return False
        return all(self._intact(path, digest) for path, digest in record["files"].items())

    def interrupted(self, name: str) -> bool:
        """Whether an earlier call began ``name`` and did not finish it."""
        return name in self.started

    def start(self, name: str) -> None:
        """Note that ``name`` is about to be executed, and what is there before it."""
        self.finished.pop(name, None)
        # After an interruption the first snapshot stays: files of the broken attempt are its own.
        self.started.setdefault(name, self._snapshot())
        self._write()

    def finish(self, name: str, key: str, executed: Path) -> None:
        """Note what ``name`` wrote; later notebooks become stale when that includes data.

        Args:
            name: of the notebook.
            key: fingerprint of what decided the execution.
            executed: the executed notebook, checked like the other files.
        """
        written = self._changed_since(self.started.pop(name))
        if any(Path(path).suffix not in _DRAWN for path in written):
            for later in self.order[self.order.index(name) + 1 :]:
                self.finished.pop(later, None)
        self._disown(written)
        kept = [*written, str(executed.relative_to(self.folder))]
        hashes = {path: files.sha256(self.folder / path) for path in kept}
        self.finished[name] = {"key": key, "files": hashes}
        self._write()

    @contextmanager
    def written_by_another(self) -> Iterator[None]:
        """Files that change meanwhile (the report's) no longer count against any notebook."""
        before = self._snapshot()
        yield
        self._disown(self._changed_since(before))
        self._write()

    def _disown(self, paths: list[str]) -> None:
        # The last writer of a file answers for it.
        for record in self.finished.values():
            record["files"] = {p: h for p, h in record["files"].items() if p not in paths}

    def _changed_since(self, before: Snapshot) -> list[str]:
        return [path for path, stamp in self._snapshot().items() if before.get(path) != stamp]

    def _intact(self, path: str, digest: str) -> bool:
        file = self.folder / path
        return file.is_file() and files.sha256(file) == digest

    def _snapshot(self) -> Snapshot:
        found = {}
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            if relative.parts[0] in _NOT_TRACKED or ".partial" in path.name or not path.is_file():
                continue
            status = path.stat()
            found[str(relative)] = [status.st_size, status.st_mtime_ns]
        return found

    def _write(self) -> None:
        files.write_json(self.path, {"finished": self.finished, "started": self.started})


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a results folder for this process; the system frees it when the process ends.

    Raises:
        InputError: another run holds it.
    """
    path = folder / "stages" / "running"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run is writing to {folder}", "wait for it, or take another profile"
            ) from None
        yield
