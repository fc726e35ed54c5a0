"""Text for people (durations, Markdown tables), and the pinned texts of this package."""

from collections.abc import Iterable, Sequence
from typing import Any

from kappa_lib import files, paths
from kappa_lib.errors import AssetError

TEXTS = paths.DATA / "texts"


def clock(seconds: float) -> str:
    """A duration as a person reads it: ``8 s``, ``3 min 05 s``, ``2 h 07 min``, ``5.3 days``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole / 86400:,.1f} days"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things, their noun in the right form: ``1 seed``, ``1,200 matrices``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a cell is written as ``str`` writes it, and may hold a bar."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    first, rule, *rest = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([first, rule.replace(" ", ""), *rest])


def text_metadata() -> dict[str, dict[str, Any]]:
    """Name of each text in ``data/texts`` → ``source``, ``licence``, ``credit``, ``sha256``."""
    return files.read_json(TEXTS / "texts.json")


def bundled_text(name: str) -> str:
    """One of the texts, its bytes checked.

    Raises:
        AssetError: the file is missing or does not have its pinned bytes.
    """
    path, pinned = TEXTS / f"{name}.txt", text_metadata()[name]["sha256"]
    found = files.sha256(path) if path.is_file() else "no file"
    if found != pinned:
        raise AssetError(
            f"{path}: not the pinned text\n  expected sha256 {pinned}\n  found    {found}",
            "restore it with git or install kappa_lib again; git must not convert its line ends",
        )
    return path.read_bytes().decode()
