"""What the site shows that no file holds: the claims, the most important first."""

from kappa_lib import paths
from kappa_lib.evidence import claims, listing
from kappa_lib.evidence.catalogue import CLAIM, Claim
from kappa_lib.text import markdown


def claims_by_importance() -> str:
    """Markdown tables of every claim: its verdict on the study, what was measured, where."""
    found = claims.load(paths.REFERENCE / "study")
    primary = [c for c in found if c.primary]
    others = [c for c in found if c.kind == CLAIM and not c.primary]
    beside = [c for c in found if c.kind != CLAIM]
    parts = {"Primary claims": primary, "Other claims": others, "Identities and caveats": beside}
    return "\n\n".join(f"## {title}\n\n{_table(rows)}" for title, rows in parts.items())


def _table(found: list[Claim]) -> str:
    rows = []
    for claim in found:
        notebook, cell = claim.cell.split("#")
        place = f"[{claim.id}](../notebooks/{notebook}#{cell})"
        rows.append([f"**{listing.said(claim)}**", claim.statement, listing.measured(claim), place])
    return markdown(["verdict", "the paper says", "measured", "decided in"], rows)
