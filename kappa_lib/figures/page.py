"""A κ table → ``kappa.html``: one file to look at, without a network, scripts or other files."""

import base64
import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
import yaml

from kappa_lib import paths, provenance
from kappa_lib.errors import InputError
from kappa_lib.files import replacing, write_text
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
PASTED = 400  # of how many tensors names are pasted into the page
DPI = 110  # four pictures, light and dark, stay well under 1 MB
INK, PAPER = "#e6e6e6", "#16181c"  # of the dark pictures
# In a heading, in this order; what is left of a name may wrap.
WORDS = {
    "dlogkappa": "Δ log κ",
    "kappa_excess": "κ / null",
    "kappa_mp": "null of the shape",
    "kappa": "κ",
    "_": " ",
}
COLUMNS = ["tensor", "rows", "cols", "kappa", "kappa_excess", "kappa_error", "effective_rank"]


def write(table: pd.DataFrame, folder: Path, changes: Comparison | None = None) -> list[Path]:
    """Write ``kappa.html`` and, where matplotlib is installed, its pictures as PNGs beside it.

    The κ table has its metadata in ``attrs``; ``changes``, from this checkpoint to a second one,
    have a section of their own. Returns the page, then the pictures; none where matplotlib is
    missing, which the page says.
    """
    arms = proposed(table)
    drawable = find_spec("matplotlib") is not None
    found = _drawn(table, arms, changes) if drawable else {}
    pictures = {name: _picture(folder / f"{name}.png", *drawn) for name, drawn in found.items()}
    ordered = table.sort_values(["kappa", "tensor"])
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
        moved=_moved(changes) if changes else None,
        ends={"Best": ordered[COLUMNS].head(ENDS), "Worst": ordered[COLUMNS].tail(ENDS)[::-1]},
        errors=table.groupby("method", sort=False)["kappa_error"]
        .agg(tensors="size", median="median", largest="max")
        .reset_index(),
        basis=table.attrs.get("basis", ""),
        left_out=table.attrs.get("left_out", {}),
        provenance=_provenance(table),
    )
    write_text(folder / "kappa.html", text)
    return [folder / "kappa.html", *(folder / f"{name}.png" for name in pictures)]


def proposed(table: pd.DataFrame) -> dict[str, Selection]:
    """The paper's share of lowest and of highest κ; nothing where that is no tensor."""
    count = selection.count_for(table)
    return {a: selection.select(table, a, count) for a in ("selected", "inverse")} if count else {}


def _drawn(
    table: pd.DataFrame, arms: Mapping[str, Selection], changes: Comparison | None
) -> dict[str, tuple["Figure", str]]:
    """The figures that a table gives rise to, and what each shows in words."""
    from kappa_lib.figures import kappa

    inside = selection.candidates(table)
    found = {}
    if len(inside):
        low, high = (inside.loc[at] for at in (inside["kappa"].idxmin(), inside["kappa"].idxmax()))
        found["kappa_heat_map"] = (
            kappa.heat_map(table),
            f"Heat map of κ, layer by module type, on a logarithmic colour scale: from"
            f" {number(low['kappa'])} ({low['tensor']}) to"
            f" {number(high['kappa'])} ({high['tensor']}).",
        )
        above = int((inside["kappa_excess"] > 1).sum())
        found["kappa_against_null"] = (
            kappa.against_null(inside),
            f"κ over the κ typical of a random matrix of the same shape, a dot per matrix, a row"
            f" per module type, on a logarithmic axis: {above} of {len(inside)} lie above 1.",
        )
    if arms:
        sizes = ", ".join(f"{a} {counted(len(s.tensors), 'tensor')}" for a, s in arms.items())
        found["kappa_selection"] = (
            kappa.selection_map(table, {arm: s.tensors for arm, s in arms.items()}),
            f"Which matrices each arm would train, layer by module type: {sizes}.",
        )
        sizes = ", ".join(f"{arm} {s.parameters:,}" for arm, s in arms.items())
        found["kappa_composition"] = (
            kappa.compositions({arm: composition(table, s.tensors) for arm, s in arms.items()}),
            f"Tensors and parameters of each arm by module type; parameters: {sizes}.",
        )
    changed = changes.table.query("relative_change > 0 and layer.notna()") if changes else ()
    if len(changed):
        moved = changed.loc[changed["dlogkappa"].abs().idxmax()]
        found["compare_maps"] = (
            kappa.change_maps(changes.table),
            f"Relative Frobenius change and Δ log κ from {changes.before} to {changes.after}, layer"
            f" by module type: {len(changed)} of {len(changes.table)} matrices changed; κ moved"
            f" most in {moved['tensor']}, Δ log κ {number(moved['dlogkappa'])}.",
        )
    return found


def _picture(path: Path, figure: "Figure", words: str) -> dict[str, str]:
    """Save a figure as PNG; data URLs of it on light and on dark ground, and its words."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
    _darken(figure)
    dark = io.BytesIO()
    figure.savefig(dark, format="png", dpi=DPI)
    found = {"alt": words}
    for ground, data in (("light", path.read_bytes()), ("dark", dark.getvalue())):
        found[ground] = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return found


def _darken(figure: "Figure") -> None:
    """Turn a finished figure to dark ground: whatever is black on it becomes light."""
    from matplotlib import collections, colors, lines, patches, spines, text

    for ground in (figure.patch, *(axis.patch for axis in figure.axes)):
        ground.set_facecolor(PAPER)
    black = colors.to_rgba("black")
    for artist in figure.findobj():
        if isinstance(artist, spines.Spine):
            artist.set_edgecolor(INK)
        elif isinstance(artist, text.Text) or (
            isinstance(artist, lines.Line2D) and colors.to_rgba(artist.get_color()) == black
        ):
            artist.set_color(INK)
        elif isinstance(artist, patches.Patch) and artist.get_facecolor() == black:
            artist.set_facecolor(INK)
        elif isinstance(artist, collections.PolyCollection):  # a band, which lets the dots through
            shades = artist.get_facecolor()
            if len(shades) and not shades[0, :3].any():
                artist.set_facecolor(colors.to_rgba(INK, shades[0, 3]))


def number(value: float) -> str:
    """Three significant digits, as everywhere on the page: 2.35, 1,920, 3.1e-09."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2g}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"


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
    inside = types(table)
    facts = facts.loc[inside + [kind for kind in facts.index if kind not in inside]]
    return facts.rename_axis("type").reset_index()


def _selection(table: pd.DataFrame, arms: Mapping[str, Selection]) -> dict[str, Any]:
    """How much of the selection is shape, what it consists of, and what to paste to train it."""
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
        "pasted": {arm: _pasted(chosen, table) for arm, chosen in arms.items()},
    }


def _pasted(chosen: Selection, table: pd.DataFrame) -> dict[str, str]:
    """Tool → what to paste to train an arm; or, without a tool, why there is nothing."""
    try:
        chosen, _ = chosen.adaptable(table)
        targets = chosen.peft_targets()
        axolotl = chosen.unfrozen_parameters()
    except InputError as error:
        return {"": f", PEFT and Axolotl: {error.what}; {error.remedy}."}
    if len(chosen.tensors) > PASTED:
        return {"": f": {len(chosen.tensors)} names, too many to paste; write them as files."}
    listed = yaml.safe_dump(targets, default_flow_style=None, width=96)
    peft = "import yaml\nfrom peft import LoraConfig\n\n" + (
        f'targets = yaml.safe_load("""\n{listed}""")\nconfig = LoraConfig(**targets)\n'
    )
    return {"PEFT": peft, "Axolotl": axolotl}


def _moved(changes: Comparison) -> dict[str, pd.DataFrame]:
    """Heading → table: means of groups, and where κ moved most."""
    tables = {
        f"By {'module type' if by == 'type' else by}": rows.drop(columns="by").rename(
            columns={"group": by}
        )
        for by, rows in changes.summary().groupby("by", sort=False)
    }
    most = changes.table.sort_values("dlogkappa", key=abs, ascending=False).head(ENDS)
    columns = ["tensor", "kappa_before", "kappa_after", "dlogkappa", "relative_change"]
    return {**tables, "Where κ moved most": most[columns]}


def _provenance(table: pd.DataFrame) -> dict[str, str]:
    found = {"stored as": ", ".join(table["dtype"].unique()), **table.attrs}
    for pages in ("config", "left_out", "not_adapted"):
        found.pop(pages, None)
    found |= {name: value for name, value in provenance.describe().items() if value is not None}
    for name, value in found.items():
        if isinstance(value, dict):
            told = (f"{key} {inner}" for key, inner in value.items() if inner is not None)
            found[name] = ", ".join(told)
    return {name: str(value) for name, value in found.items() if value != ""}
