"""Finished rows on disk as they come, from which a killed scan goes on."""

import json
from pathlib import Path
from typing import Any

from kappa_lib.errors import InputError


class Journal:
    """Finished rows by key, appended to a file as they come; the last line may be torn."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
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
        self._rows[key] = row
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, "row": row}) + "\n")
