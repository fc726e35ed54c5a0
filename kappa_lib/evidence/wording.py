"""How reports and the README write numbers, intervals and decisions."""

import math
from collections.abc import Iterable
from typing import Any

from kappa_lib.evidence.verdicts import Decision


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
        told = [f"{name} {_numbers(part)}: {part.verdict}" for name, part in found.parts.items()]
    else:
        told = [_numbers(found)]
    return "; ".join(text for text in (*told, found.note) if text)


def _numbers(found: Decision) -> str:
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
    return ", ".join(told)


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
