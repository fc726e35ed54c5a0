"""How reports and the README write intervals and decisions, and the blocks that a run fills."""

import math
from collections.abc import Iterable
from typing import Any

from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import Decision

# Between such lines the README holds what a run wrote.
MARKERS = ("<!-- {0}: generated, do not edit -->", "<!-- end of {0} -->")


def spread(values: Iterable[float], scale: float, digits: int) -> str:
    """Mean, with the lowest and highest where there are several; a dash for NaN."""
    scaled = [value * scale for value in values]
    mean = sum(scaled) / len(scaled)
    if math.isnan(mean):
        return "–"
    text = f"{mean:.{digits}f}"
    if len(scaled) > 1:
        text += f" ({min(scaled):.{digits}f}–{max(scaled):.{digits}f})"
    return text


def interval(estimate: float, low: float, high: float, digits: int) -> str:
    """``+0.14 [-4.01, +4.29]``."""
    return f"{estimate:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def decision(found: Decision) -> str:
    """The numbers of a decision: estimate, interval, repetitions, effect, p, note; parts first."""
    if found.parts:
        told = [f"{name}: {decision(part)} ({part.verdict})" for name, part in found.parts.items()]
        own = found.note if found.note not in {part.note for part in found.parts.values()} else ""
        return "; ".join([*told, *([own] if own else [])])
    told = []
    if found.estimate is not None:
        digits = 2 if found.unit.startswith("points") else 4
        text = f"{found.estimate:+.{digits}f}"
        if found.interval is not None:
            text = interval(found.estimate, *found.interval, digits)
        told.append(f"{text} {found.unit}".strip())
    if found.n is not None and found.interval is not None:
        told.append(f"n = {found.n}")
    if found.effect is not None and math.isfinite(found.effect):
        told.append(f"d_z = {found.effect:+.1f}")
    if found.p is not None:
        told.append(f"p = {found.p:.2g}")
    return ", ".join(told) + (f"; {found.note}" if told and found.note else found.note)


def short(value: Any) -> str:
    """At most four significant digits; long lists by their ends; of dictionaries nothing."""
    if isinstance(value, list):
        shown = value if len(value) <= 4 else [*value[:2], "…", value[-1]]
        return "[" + ", ".join(short(item) for item in shown) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def block_of(text: str, name: str) -> str:
    """What stands between the two markers of a name."""
    begin, end = (marker.format(name) for marker in MARKERS)
    return text.partition(begin)[2].partition(end)[0].strip()


def replace_block(text: str, name: str, block: str) -> str:
    """Put ``block`` between the two markers of a name.

    Raises:
        InputError: the text has no such markers.
    """
    begin, end = (marker.format(name) for marker in MARKERS)
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise InputError(f"the text has no {begin}", "put both markers back")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"
