"""Rows of a scan on disk as they are finished, from which a killed scan goes on."""

import json
from pathlib import Path
from typing import Any

from kappa_lib.errors import InputError


class FinishedRows:
    """Finished rows by key, appended to a file as they come.

    Each process appends to a file of its own and reads those of all, so that another number of
    processes can go on. The last line may be torn.

    Args:
        folder: where the files are; None keeps nothing.
        process: number of this one; the first one's file is ``kappa.rows.jsonl``.
    """

    def __init__(self, folder: Path | None, process: int = 0) -> None:
        self.path = (
            folder / f"kappa.rows{f'.{process}' if process else ''}.jsonl" if folder else None
        )
        self._rows: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("kappa.rows*.jsonl")) if folder else ():
            self._load(path)

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data) and path == self.path:
            # A kill while appending leaves half a line, to which nothing may be appended.
            with open(path, "r+b") as stream:
                stream.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self._rows[record["key"]] = record["row"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number} is not a finished row", "delete this file, scan again"
                ) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The row finished under ``key``, if there is one."""
        return self._rows.get(key)

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a finished row, on disk at once."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, "row": row}) + "\n")
