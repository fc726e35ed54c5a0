"""Text for people (durations, Markdown tables), and the pinned texts of this package."""

from collections.abc import Iterable, Sequence
from typing import Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError

TEXTS = paths.DATA / "texts"


def clock(seconds: float) -> str:
    """A duration as a person reads it: ``8 s``, ``3 min 05 s``, ``2 h 07 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, over = divmod(minutes, 60)
    return f"{hours} h {over:02d} min" if hours else f"{minutes} min {rest:02d} s"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things, their noun in the right form: ``1 seed``, ``1,200 matrices``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a cell is written as ``str`` writes it, and may hold a bar."""

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])


def text_metadata() -> dict[str, dict[str, Any]]:
    """Name of each text in ``data/texts`` → ``source``, ``licence``, ``credit``, ``sha256``."""
    return files.read_json(TEXTS / "texts.json")


def bundled_text(name: str) -> str:
    """One of the texts; AssetError where it is missing or does not have its pinned bytes."""
    path = TEXTS / f"{name}.txt"
    if not path.is_file() or files.sha256(path) != text_metadata()[name]["sha256"]:
        remedy = "restore it with git, which must not convert its line ends, or install again"
        raise AssetError(f"{path}: not the pinned text", remedy)
    return path.read_bytes().decode()
