"""How numbers are written for a person: durations, and tables in Markdown."""

from collections.abc import Iterable, Sequence


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


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; a cell is written as ``str`` writes it."""
    lines = [columns, ["---"] * len(columns), *rows]
    first, rule, *rest = ("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return "\n".join([first, rule.replace(" ", ""), *rest])
