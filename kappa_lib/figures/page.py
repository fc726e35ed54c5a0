"""A κ table → ``kappa.html``: one file to look at, without a network, scripts or other files."""

import base64
from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from kappa_lib import paths, provenance
from kappa_lib.files import write_text
from kappa_lib.spectra import selection
from kappa_lib.spectra.compare import Comparison
from kappa_lib.spectra.kappa_table import composition, explained_by_type, types
from kappa_lib.spectra.selection import Selection
from kappa_lib.text import counted

if TYPE_CHECKING:  # matplotlib is not in the core
    from matplotlib.figure import Figure

NO_PICTURES = (
    "without pictures: they need matplotlib, pip install '.[speech]' in the clone of the"
    " repository, then the same scan again (finished rows are kept)"
)
ENDS = 6  # how many best- and worst-conditioned tensors are listed
DPI = 110  # five pictures stay well under 1 MB
# In a heading, in this order; what is left of a name may wrap.
WORDS = {
    "dlogkappa": "Δ log κ",
    "kappa_excess": "κ / null",
    "kappa_mp": "null of the shape",
    "kappa": "κ",
    "_": " ",
}
MOVED = ["tensor", "kappa_before", "kappa_after", "dlogkappa", "relative_change"]
COLUMNS = ["tensor", "rows", "cols", "kappa", "kappa_excess", "kappa_error", "effective_rank"]


def write(table: pd.DataFrame, folder: Path, changes: Comparison | None = None) -> Path:
    """Write ``kappa.html``, with pictures where matplotlib is installed; its path.

    The κ table has its metadata in ``attrs``; ``changes``, from this checkpoint to a second one,
    have a section of their own.
    """
    arms = proposed(table)
    drawable = find_spec("matplotlib") is not None
    found = _drawn(table, arms, changes) if drawable else {}
    pictures = {name: _picture(drawn) for name, drawn in found.items()}
    ordered, moved = table.sort_values(["kappa", "tensor"]), {}
    if changes:
        most = changes.table.sort_values("dlogkappa", key=abs, ascending=False).head(ENDS)
        moved = {"By module type": changes.summary(), "Where κ moved most": most[MOVED]}
    loader = jinja2.FileSystemLoader(paths.DATA)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters |= {"table": _html, "number": number}
    environment.globals["counted"] = counted
    text = environment.get_template("page.html.j2").render(
        table=table,
        model=table.attrs.get("model", "a model"),
        without_pictures="" if drawable else NO_PICTURES,
        pictures=pictures,
        by_type=_by_type(table),
        selection=_selection(table, arms) if arms else None,
        changes=changes,
        moved=moved,
        ends={"Best": ordered[COLUMNS].head(ENDS), "Worst": ordered[COLUMNS].tail(ENDS)[::-1]},
        errors=table.groupby("method", sort=False)["kappa_error"]
        .agg(tensors="size", median="median", largest="max")
        .reset_index(),
        basis=table.attrs.get("basis", ""),
        left_out=table.attrs.get("left_out", {}),
        provenance=_provenance(table),
    )
    write_text(folder / "kappa.html", text)
    return folder / "kappa.html"


def proposed(table: pd.DataFrame) -> dict[str, Selection]:
    """The paper's share of lowest and of highest κ; nothing where that is no tensor."""
    count = selection.count_for(table)
    return {a: selection.select(table, a, count) for a in ("selected", "inverse")} if count else {}


def _drawn(
    table: pd.DataFrame, arms: Mapping[str, Selection], changes: Comparison | None
) -> dict[str, "Figure"]:
    """The figures that a table gives rise to."""
    from kappa_lib.figures import kappa

    inside, found = selection.candidates(table), {}
    if len(inside):
        found["kappa_heat_map"] = kappa.heat_map(table)
        found["kappa_against_null"] = kappa.against_null(inside)
    if arms:
        names = {arm: chosen.tensors for arm, chosen in arms.items()}
        parts = {arm: composition(table, tensors) for arm, tensors in names.items()}
        found["kappa_selection"] = kappa.selection_map(table, names)
        found["kappa_composition"] = kappa.compositions(parts)
    if changes and len(changes.table.query("relative_change > 0 and layer.notna()")):
        found["compare_maps"] = kappa.change_maps(changes.table)
    return found


def _picture(figure: "Figure") -> dict[str, str]:
    """A data URL of a figure as PNG, and its words."""
    from kappa_lib.figures.style import alternative_text

    stream = BytesIO()
    figure.savefig(stream, dpi=DPI)
    data = base64.b64encode(stream.getvalue()).decode()
    return {"url": f"data:image/png;base64,{data}", "alt": alternative_text(figure)}


def number(value: float) -> str:
    """Three significant digits, as everywhere on the page: 2.35, 25.0, 1,920; 3.1e-09."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if not rounded or abs(rounded) >= 100 else f"{rounded:#.3g}"


def _html(frame: pd.DataFrame) -> str:
    """A table; pandas escapes what is in its cells."""
    frame = frame.copy()
    for name, said in WORDS.items():
        frame.columns = frame.columns.str.replace(name, said)
    text = frame.to_html(index=False, border=0, na_rep="–", float_format=number)
    return f'<div class="wide">{text}</div>'


def _by_type(table: pd.DataFrame) -> pd.DataFrame:
    groups = table.groupby("type", sort=False)
    facts = groups["kappa"].agg(tensors="size", lowest="min", median="median", highest="max")
    facts["null of the shape"] = groups["kappa_mp"].median()
    facts["κ / null"] = groups["kappa_excess"].median()
    return facts.loc[types(table, outside=True)].rename_axis("type").reset_index()


def _selection(table: pd.DataFrame, arms: Mapping[str, Selection]) -> dict[str, Any]:
    """How much of the selection is shape, and what it consists of."""
    pool = selection.candidates(table)
    shape = {
        arm: (len(s.tensors), selection.picked_by_shape(table, s), len(s.tensors) ** 2 / len(pool))
        for arm, s in arms.items()
    }
    parts = {arm: composition(table, s.tensors) for arm, s in arms.items()}
    counts = pd.DataFrame({"of": next(iter(parts.values()))["of"]})
    for arm, part in parts.items():
        counts[arm] = part["tensors"]
        counts[f"{arm}, parameters"] = part["parameters"]
    counts.loc["all"] = counts.sum()
    return {
        "explained": explained_by_type(pool),
        "shape": shape,
        "counts": counts.map("{:,}".format).rename_axis("type").reset_index(),
    }


def _provenance(table: pd.DataFrame) -> dict[str, str]:
    found = {"stored as": ", ".join(table["dtype"].unique()), **table.attrs}
    for pages in ("config", "left_out", "not_adapted"):
        found.pop(pages, None)
    found |= {name: value for name, value in provenance.describe().items() if value is not None}
    for name, value in found.items():
        if isinstance(value, dict):
            value = [f"{key} {inner}" for key, inner in value.items() if inner is not None]
        found[name] = ", ".join(value) if isinstance(value, list) else str(value)
    return {name: value for name, value in found.items() if value}
