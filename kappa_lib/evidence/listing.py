"""Claims as people read them: numbers in words, the table of verdicts, counts by kind and scale."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from kappa_lib.evidence.claims import CAVEAT, CLAIM, IDENTITY, Claim
from kappa_lib.evidence.verdicts import (
    FAILS,
    NOT_MEASURED,
    PROVED,
    SCALES,
    THIS_MODEL,
    TOY,
    VERDICTS,
    Decision,
    notes,
)
from kappa_lib.text import markdown

# What "fails" means depends on how far a verdict reaches.
_FAILURES = {
    PROVED: "a counterexample",
    TOY: "one counterexample, built",
    THIS_MODEL: "not reproduced at this size",
}


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
    """``+0.14 [-4.01, +4.29]``; the estimate alone where there is no interval (NaN)."""
    # Adding zero turns what rounds to -0 into 0.
    shown = [f"{round(x, digits) + 0.0:+.{digits}f}" for x in (estimate, low, high)]
    return shown[0] if math.isnan(low) else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _numbers(found: Decision) -> str:
    """Estimate, interval, repetitions, effect and p."""
    told = []
    if found.estimate is not None:
        low, high = found.interval or (math.nan, math.nan)
        text = interval(found.estimate, low, high, 2 if found.unit.startswith("points") else 4)
        told.append(f"{text} {found.unit}".strip())
    if found.n is not None and found.interval is not None:
        told.append(f"n = {found.n}")
    if found.effect is not None and math.isfinite(found.effect):
        told.append(f"d_z = {found.effect:+.1f}")
    if found.p is not None:
        told.append(f"p = {found.p:.2g}")
    return ", ".join(told)


def _short(value: Any) -> str:
    """At most four significant digits; long lists by their ends; of dictionaries nothing."""
    if isinstance(value, list):
        shown = value if len(value) <= 4 else [*value[:2], "…", value[-1]]
        return "[" + ", ".join(_short(item) for item in shown) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def said(claim: Claim) -> str:
    """The verdict, with what a failure means at the claim's scale."""
    return f"{FAILS} ({_FAILURES[claim.scale]})" if claim.verdict == FAILS else claim.verdict


def measured(claim: Claim) -> str:
    """What was measured: the decision's estimate and interval, or the rule's plain numbers."""
    found, told = claim.decision, []
    if found:
        told = [f"{name} {_numbers(part)}: {part.verdict}" for name, part in found.parts.items()]
        told = [*(told or [_numbers(found)]), found.note]
    if claim.measured and (found is None or found.estimate is None):
        plain = {k: v for k, v in claim.measured.items() if not isinstance(v, dict)}
        told += [f"{k} = {_short(v)}" for k, v in plain.items()]
    return notes(*told) or "–"


def table(claims: Sequence[Claim]) -> str:
    """A Markdown table: place, statement, measured numbers, verdict, scale, deciding cell."""
    header = ["claim", "place", "the paper says", "measured", "verdict", "scale", "decided in"]
    rows = []
    for c in claims:
        scale = c.scale if c.kind == CLAIM else f"{c.scale} ({c.kind})"
        rows.append([c.id, c.place, c.statement, measured(c), f"**{said(c)}**", scale, c.cell])
    return markdown(header, rows)


def details(claims: Sequence[Claim]) -> str:
    """A Markdown table for who wants to check: rule, evidence, what would overturn it, minutes."""
    header = ["claim", "rule", "evidence", "would be overturned by", "minutes on two cores"]
    rows = [[c.id, c.rule, c.evidence, c.overturned_by, f"{c.minutes:,}"] for c in claims]
    return markdown(header, rows)


def counts(claims: Sequence[Claim]) -> dict[str, int]:
    """How many claims have each verdict, ``not measured`` included, in a fixed order."""
    found = [claim.verdict for claim in claims]
    return {verdict: found.count(verdict) for verdict in (*VERDICTS, NOT_MEASURED)}


def tally(claims: Sequence[Claim]) -> str:
    """A Markdown table of counts: verdicts of the claims by scale, identities and caveats apart."""
    columns = {f"claims, {scale}": _of(claims, CLAIM, scale) for scale in SCALES}
    columns |= {"identities": _of(claims, IDENTITY), "our caveats": _of(claims, CAVEAT)}
    rows = []
    for verdict in (*VERDICTS, NOT_MEASURED):
        found = [counts(of)[verdict] for of in columns.values()]
        if any(found):
            rows.append([verdict, *(n or "" for n in found)])
    rows.append(["**all**", *(f"**{len(of)}**" for of in columns.values())])
    return markdown(["verdict", *columns], rows)


def _of(claims: Sequence[Claim], kind: str, scale: str | None = None) -> list[Claim]:
    return [c for c in claims if c.kind == kind and scale in (None, c.scale)]


def sentence(claims: Sequence[Claim], kind: str, scale: str | None = None) -> str:
    """Counts of one kind (and scale) in a line: ``3: holds 1, undecided 2``."""
    of = _of(claims, kind, scale)
    return f"{len(of)}: " + ", ".join(f"{verdict} {n}" for verdict, n in counts(of).items() if n)
