"""Claims in Markdown: tables of verdicts and of rules, and how many claims have which verdict."""

import math
from collections.abc import Sequence
from typing import Any

from kappa_lib.evidence.catalogue import CAVEAT, CLAIM, IDENTITY, Claim
from kappa_lib.evidence.verdicts import (
    FAILS,
    NOT_MEASURED,
    PROVED,
    THIS_MODEL,
    TOY,
    VERDICTS,
    Decision,
    interval,
)
from kappa_lib.text import markdown

# How far a verdict reaches, in words, and what "fails" means there.
REACH = {PROVED: "theorem", THIS_MODEL: "this model", TOY: "constructed example"}
_FAILURES = {
    PROVED: "a counterexample",
    TOY: "one counterexample, built",
    THIS_MODEL: "not reproduced at this size",
}
# What a reader asks first: whether it is κ, what κ is a property of, and whether the method helps.
_FIRST = (
    "kappa-causes-forgetting",
    "kappa-is-the-cause",
    "mitigates-forgetting",
    "new-text-task",
    "kappa-of-a-function",
    "rule-reads-the-function",
    "kappa-tracks-encoding",
)


def by_importance(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Heading → claims, the most important first: primary, other, identities and caveats."""
    last = len(_FIRST)
    ranked = sorted(claims, key=lambda c: _FIRST.index(c.id) if c.id in _FIRST else last)
    return {
        "Primary claims": [c for c in ranked if c.primary],
        "Other claims": [c for c in ranked if c.kind == CLAIM and not c.primary],
        "Identities and caveats": [c for c in ranked if c.kind != CLAIM],
    }


def verdict(claim: Claim) -> str:
    """The verdict in bold, with what a failure means at the claim's reach."""
    failed = claim.verdict == FAILS
    return f"**{FAILS} ({_FAILURES[claim.scale]})**" if failed else f"**{claim.verdict}**"


def reach(claim: Claim) -> str:
    """How far the verdict reaches; of what is no claim of the paper's also its kind."""
    return REACH[claim.scale] + ("" if claim.kind == CLAIM else f" ({claim.kind})")


def measured(claim: Claim) -> str:
    """What was measured: estimates with intervals and readings, or the cell's plain numbers.

    The only p-value is that by Holm, where there is one.
    """
    found, texts = claim.decision, []
    if found:
        parts = [f"{_numbers(part, name)}: {part.verdict}" for name, part in found.parts.items()]
        texts = [*(parts or [_numbers(found)]), found.note]
    texts += [f"{name} = {_short(value)}" for name, value in claim.measured.items()]
    return "; ".join(filter(None, texts)) or "–"


def _numbers(found: Decision, name: str = "") -> str:
    """Name, estimate, interval and repetitions; the name alone without an estimate."""
    if found.estimate is None:
        return name
    low, high = found.interval or (math.nan, math.nan)
    digits = 2 if found.unit.startswith("points") else 4
    text = f"{name} {interval(found.estimate, low, high, digits)} {found.unit}".strip()
    return text if found.n is None or found.interval is None else f"{text}, n = {found.n}"


def _short(value: Any) -> str:
    """At most four significant digits; long lists by their ends."""
    if isinstance(value, list):
        shown = value if len(value) <= 4 else [*value[:2], "…", value[-1]]
        return "[" + ", ".join(_short(item) for item in shown) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(claims: Sequence[Claim], notebooks: str = "") -> str:
    """A Markdown table of verdicts; ``notebooks`` is where the links start, ``../notebooks/``."""
    header = ["verdict", "the paper says", "measured", "reach", "decided in"]
    rows = []
    for c in claims:
        statement, cell = f"{c.statement} ({c.place})", f"[{c.id}]({notebooks}{c.cell})"
        rows.append([verdict(c), statement, measured(c), reach(c), cell])
    return markdown(header, rows)


def overview(claims: Sequence[Claim]) -> str:
    """A Markdown table of verdicts without what was measured."""
    rows = [[verdict(c), f"{c.statement} (`{c.id}`)", reach(c)] for c in claims]
    return markdown(["verdict", "the paper says", "reach"], rows)


def details(claims: Sequence[Claim]) -> str:
    """A Markdown table for whoever wants to check: rule, evidence, what would overturn it."""
    header = ["claim", "rule", "evidence", "would be overturned by"]
    rows = [
        [c.id, c.rule, f"{c.evidence} ({c.minutes:,} min on two cores)", c.overturned_by]
        for c in claims
    ]
    return markdown(header, rows)


def counts(claims: Sequence[Claim]) -> dict[str, int]:
    """How many claims have each verdict, ``not measured`` included, in a fixed order."""
    found = [claim.verdict for claim in claims]
    return {verdict: found.count(verdict) for verdict in (*VERDICTS, NOT_MEASURED)}


def tally(claims: Sequence[Claim]) -> str:
    """A Markdown table of counts: verdicts of the claims by reach, identities and caveats apart."""
    could_fail = [c for c in claims if c.kind == CLAIM]
    columns = {of: [c for c in could_fail if c.scale == scale] for scale, of in REACH.items()}
    columns["identities"] = [c for c in claims if c.kind == IDENTITY]
    columns["our caveats"] = [c for c in claims if c.kind == CAVEAT]
    rows = []
    for word in (*VERDICTS, NOT_MEASURED):
        found = [counts(of)[word] for of in columns.values()]
        if any(found):
            rows.append([word, *(n or "" for n in found)])
    rows.append(["**all**", *(f"**{len(of)}**" for of in columns.values())])
    return markdown(["verdict", *columns], rows)
