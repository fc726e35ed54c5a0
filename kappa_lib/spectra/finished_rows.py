"""Rows of a scan on disk as they are finished, from which a killed scan goes on."""

import json
from pathlib import Path
from typing import Any

from kappa_lib.errors import InputError
from kappa_lib.files import fits, parse, whole_lines
from kappa_lib.spectra.kappa_table import KINDS


def _is_row(row: dict[str, Any]) -> bool:
    """Whether it has every column of the κ table but the ranks; further ones hold numbers."""
    kinds = {name: kind for name, kind in KINDS.items() if not name.startswith("rank_in")}
    del kinds["rank"]
    return kinds.keys() <= row.keys() and all(
        fits(value, kinds.get(name, float)) for name, value in row.items()
    )


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
        # Only this process' own file: another may be appending to the others.
        for number, line in enumerate(whole_lines(path, mend=path == self.path), 1):
            try:
                record = parse(line, "it", dict[str, object])
            except InputError:
                record = {}
            key, row = record.get("key"), record.get("row")
            if not (fits(key, str) and fits(row, dict[str, object]) and _is_row(row)):
                raise InputError(
                    f"{path}: line {number} is not a finished row", "delete this file, scan again"
                )
            self._rows[key] = row

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
