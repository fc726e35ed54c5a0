"""Claims in Markdown: the table of verdicts, the rules beside them, and how many came out how."""

import math
from collections.abc import Sequence
from typing import Any

from kappa_lib.evidence.catalogue import CAVEAT, CLAIM, IDENTITY, Claim
from kappa_lib.evidence.verdicts import (
    FAILS,
    NOT_MEASURED,
    PROVED,
    SCALES,
    THIS_MODEL,
    TOY,
    VERDICTS,
    Decision,
    interval,
)
from kappa_lib.text import markdown

# What "fails" means depends on how far a verdict reaches.
_FAILURES = {
    PROVED: "a counterexample",
    TOY: "one counterexample, built",
    THIS_MODEL: "not reproduced at this size",
}


def said(claim: Claim) -> str:
    """The verdict, with what a failure means at the claim's scale."""
    return f"{FAILS} ({_FAILURES[claim.scale]})" if claim.verdict == FAILS else claim.verdict


def measured(claim: Claim) -> str:
    """What was measured: estimates with intervals and readings, or the cell's plain numbers."""
    found, told = claim.decision, []
    if found:
        parts = [f"{name} {_numbers(part)}: {part.verdict}" for name, part in found.parts.items()]
        told = [*(parts or [_numbers(found)]), found.note]
    told += [f"{name} = {_short(value)}" for name, value in claim.measured.items()]
    return "; ".join(filter(None, told)) or "–"


def _numbers(found: Decision) -> str:
    """Estimate, interval, repetitions, effect and p."""
    told = []
    if found.estimate is not None:
        low, high = found.interval or (math.nan, math.nan)
        digits = 2 if found.unit.startswith("points") else 4
        told.append(f"{interval(found.estimate, low, high, digits)} {found.unit}".strip())
    if found.n is not None and found.interval is not None:
        told.append(f"n = {found.n}")
    if found.effect is not None and math.isfinite(found.effect):
        told.append(f"d_z = {found.effect:+.1f}")
    if found.p is not None:
        told.append(f"p = {found.p:.2g}")
    return ", ".join(told)


def _short(value: Any) -> str:
    """At most four significant digits; long lists by their ends."""
    if isinstance(value, list):
        shown = value if len(value) <= 4 else [*value[:2], "…", value[-1]]
        return "[" + ", ".join(_short(item) for item in shown) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


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
    could_fail = [c for c in claims if c.kind == CLAIM]
    columns = {f"claims, {scale}": [c for c in could_fail if c.scale == scale] for scale in SCALES}
    columns["identities"] = [c for c in claims if c.kind == IDENTITY]
    columns["our caveats"] = [c for c in claims if c.kind == CAVEAT]
    rows = []
    for verdict in (*VERDICTS, NOT_MEASURED):
        found = [counts(of)[verdict] for of in columns.values()]
        if any(found):
            rows.append([verdict, *(n or "" for n in found)])
    rows.append(["**all**", *(f"**{len(of)}**" for of in columns.values())])
    return markdown(["verdict", *columns], rows)
