"""What the site shows that no file holds: the claims, the most important first."""

from kappa_lib import paths
from kappa_lib.evidence import claims, listing


def claims_by_importance() -> str:
    """Markdown tables of every claim: its verdict on the study, what was measured, where."""
    parts = listing.by_importance(claims.load(paths.REFERENCE / "study"))
    tables = {title: listing.table(found, "../notebooks/") for title, found in parts.items()}
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in tables.items())
