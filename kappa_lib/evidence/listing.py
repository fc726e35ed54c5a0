"""Claims as people read them: the table of verdicts, and how many of which kind and scale."""

from collections.abc import Sequence

from kappa_lib.evidence import wording
from kappa_lib.evidence.catalogue import CAVEAT, CLAIM, IDENTITY, Claim
from kappa_lib.evidence.verdicts import (
    FAILS,
    NOT_MEASURED,
    PROVED,
    SCALES,
    THIS_MODEL,
    TOY,
    VERDICTS,
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
    if claim.verdict == FAILS:
        return f"{FAILS} ({_FAILURES[claim.scale]})"
    return claim.verdict


def measured(claim: Claim) -> str:
    """What was measured: the decision's estimate and interval, or the rule's plain numbers."""
    numbers = ""
    if claim.decision:
        numbers = wording.decision(claim.decision)
    if claim.measured and (claim.decision is None or claim.decision.estimate is None):
        plain = {k: v for k, v in claim.measured.items() if not isinstance(v, dict)}
        listed = "; ".join(f"{k} = {wording.short(v)}" for k, v in plain.items())
        numbers = "; ".join(text for text in (numbers, listed) if text)
    return numbers or "–"


def table(claims: Sequence[Claim]) -> str:
    """A Markdown table: place, statement, measured numbers, verdict, scale, deciding cell."""
    header = ["claim", "place", "the paper says", "measured", "verdict", "scale", "decided in"]
    rows = [
        [c.id, c.place, c.statement, measured(c), f"**{said(c)}**", _scale(c), c.cell]
        for c in claims
    ]
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As :func:`kappa_lib.text.markdown`, where a cell may hold a bar, as ``log|c|``."""
    return markdown(header, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def _scale(claim: Claim) -> str:
    return claim.scale if claim.kind == CLAIM else f"{claim.scale} ({claim.kind})"


def counts(claims: Sequence[Claim]) -> dict[str, int]:
    """How many claims have each verdict, ``not measured`` included, in a fixed order."""
    found = [claim.verdict for claim in claims]
    return {verdict: found.count(verdict) for verdict in (*VERDICTS, NOT_MEASURED)}


def tally(claims: Sequence[Claim]) -> str:
    """A Markdown table of counts: verdicts of the claims by scale, identities and caveats apart."""
    kinds = [(CLAIM, scale) for scale in SCALES]
    columns = {f"claims, {scale}": _of(claims, CLAIM, scale) for _, scale in kinds}
    columns |= {"identities": _of(claims, IDENTITY), "our caveats": _of(claims, CAVEAT)}
    rows = []
    for verdict in (*VERDICTS, NOT_MEASURED):
        found = [counts(of)[verdict] for of in columns.values()]
        if any(found):
            rows.append([verdict, *(str(n) if n else "" for n in found)])
    rows.append(["**all**", *(f"**{len(of)}**" for of in columns.values())])
    return markdown(["verdict", *columns], rows)


def _of(claims: Sequence[Claim], kind: str, scale: str | None = None) -> list[Claim]:
    return [c for c in claims if c.kind == kind and scale in (None, c.scale)]


def sentence(claims: Sequence[Claim], kind: str, scale: str | None = None) -> str:
    """Counts of one kind (and scale) in a line: ``holds 1, undecided 2``."""
    of = _of(claims, kind, scale)
    return ", ".join(f"{verdict} {n}" for verdict, n in counts(of).items() if n)


def details(claims: Sequence[Claim]) -> str:
    """A Markdown table for who wants to check: rule, evidence, what would overturn it, minutes."""
    header = ["claim", "rule", "evidence", "would be overturned by", "minutes on two cores"]
    rows = [[c.id, c.rule, c.evidence, c.overturned_by, f"{c.minutes:,}"] for c in claims]
    return _table(header, rows)
