"""A κ table → ``kappa.html``: one file to look at, without a network, scripts or other files."""

import base64
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from kappa_lib import provenance
from kappa_lib.errors import InputError
from kappa_lib.files import write_text
from kappa_lib.spectra import selection
from kappa_lib.spectra.compare import Comparison
from kappa_lib.spectra.kappa_table import composition, types
from kappa_lib.spectra.measures import explained_by_type
from kappa_lib.spectra.selection import Selection

if TYPE_CHECKING:  # matplotlib is not in the core
    from kappa_lib.figures.page_pictures import Picture

NO_PICTURES = (
    "without pictures: they need matplotlib, pip install '.[speech]' in the clone of the"
    " repository, then the same scan again (finished rows are kept)"
)
ENDS = 6  # how many best- and worst-conditioned tensors are listed
PASTED = 400  # of how many tensors names are pasted into the page
_METHODS = {
    "gram": "a symmetric rank-k product of the shorter side, all eigenvalues; relative error of a"
    " small σ near κ²ε",
    "svd": "LAPACK's SVD; relative error near κε",
    "extremes": "σ₁ and σ_k alone, from the two ends of the product",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2026; --paper: #fff; --line: #d5d8dd; --soft: #f3f4f6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --line: #3a3e46; --soft: #22252b } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100%; height: auto; display: block } figure { margin: 1rem 0 }
figcaption, .note { font-size: .9rem; opacity: .85 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums } th:first-child, td:first-child { text-align: left }
.warning { border-left: 4px solid #d55e00; padding: .5rem 1rem; background: var(--soft) }
pre { background: var(--soft); padding: .8rem; overflow: auto; max-height: 22rem }
"""


def write(table: pd.DataFrame, folder: Path, changes: Comparison | None = None) -> list[Path]:
    """Write ``kappa.html`` and, where matplotlib is installed, its pictures as PNGs beside it.

    Args:
        table: κ table, with its metadata in ``attrs``.
        folder: where they go.
        changes: what lies between this checkpoint and a second one, for a section of its own.

    Returns:
        The page, then the pictures; none where matplotlib is missing, which the page says.
    """
    arms = proposed(table)
    pictures: dict[str, Picture] = {}
    drawable = find_spec("matplotlib") is not None
    if drawable:
        from kappa_lib.figures.page_pictures import draw

        pictures = draw(table, arms, changes, folder)
    shown = {name: _figure(picture) for name, picture in pictures.items()}
    title = f"κ of {escape(str(table.attrs.get('model', 'a model')))}"
    low, high = table["kappa"].min(), table["kappa"].max()
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{len(table)} matrices, κ = σ_max/σ_min from {low:.4g} to {high:.4g}.</p>",
        "" if drawable else f'<p class="note">This page is {escape(NO_PICTURES)}.</p>',
        shown.get("kappa_heat_map", ""),
        _by_type(table) + shown.get("kappa_against_null", ""),
        _selections(table, arms, shown) if arms else "",
        _changes(changes, shown) if changes else "",
        _ends(table),
        _errors(table),
        _provenance(table),
    ]
    page = folder / "kappa.html"
    write_text(
        page,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body>\n</html>\n",
    )
    return [page, *(folder / f"{name}.png" for name in pictures)]


def proposed(table: pd.DataFrame) -> dict[str, Selection]:
    """The paper's share of lowest and of highest κ; nothing where that is no tensor."""
    count = selection.count_for(table)
    return {a: selection.select(table, a, count) for a in ("selected", "inverse")} if count else {}


def _figure(picture: "Picture") -> str:
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(png).decode()}"
        for png in (picture.light, picture.dark)
    )
    alt = escape(picture.alt)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{alt}"></picture><figcaption>{alt}</figcaption></figure>'
    )


def _html(frame: pd.DataFrame) -> str:
    """A table; pandas escapes what is in its cells."""
    frame = frame.rename(columns=lambda name: name.replace("_", " "))  # which may wrap
    text = frame.to_html(index=False, border=0, na_rep="–", float_format="{:.4g}".format)
    return f'<div class="wide">{text}</div>'


def _by_type(table: pd.DataFrame) -> str:
    groups = table.groupby("type", sort=False)
    facts = groups["kappa"].agg(tensors="size", lowest="min", median="median", highest="max")
    facts["null of the shape"] = groups["kappa_mp"].median()
    facts["κ / null"] = groups["kappa_excess"].median()
    inside = types(table)
    facts = facts.loc[inside + [kind for kind in facts.index if kind not in inside]]
    return (
        "<h2>κ against its null, by module type</h2><p>The null is the κ that a random matrix of"
        " the same shape would have; κ / null is where training can show (medians).</p>"
        + _html(facts.rename_axis("type").reset_index())
    )


def _selections(
    table: pd.DataFrame, arms: Mapping[str, Selection], shown: Mapping[str, str]
) -> str:
    pool = selection.candidates(table)
    explained = explained_by_type(pool)
    shape = " ".join(
        f"Of the {len(s.tensors)} of <b>{arm}</b>, a ranking by shape alone would pick"
        f" {selection.picked_by_shape(table, s):.1f} too, a blind draw"
        f" {len(s.tensors) ** 2 / len(pool):.1f}."
        for arm, s in arms.items()
    )
    parts = {arm: composition(table, s.tensors) for arm, s in arms.items()}
    counts = pd.DataFrame({"of": next(iter(parts.values()))["of"]})
    for arm, part in parts.items():
        counts[arm] = part["tensors"]
        counts[f"{arm}, parameters"] = part["parameters"]
    counts.loc["all"] = counts.sum()
    return (
        "<h2>The proposed selection</h2><p>The paper trains 100 of 224 tensors, here the same"
        " share: those of smallest κ (<b>selected</b>) against those of largest (<b>inverse</b>)."
        f'</p><p class="warning">How much of this is shape? {explained:.1%} of the variance of'
        f" log κ lies between module types. {shape} The two arms differ in module types and in"
        " parameters too: a difference between them need not come from κ.</p>"
        + _html(counts.rename_axis("type").reset_index().map(_whole))
        + shown.get("kappa_selection", "")
        + shown.get("kappa_composition", "")
        + "<p>The names as files, by share, count, parameters or gap:"
        " <code>kappa select FOLDER -o arms/</code>, FOLDER being that of this page.</p>"
        + "".join(_pasted(arm, chosen) for arm, chosen in arms.items())
    )


def _whole(value: object) -> object:
    return value if isinstance(value, str) else f"{value:,}"


def _pasted(arm: str, chosen: Selection) -> str:
    """What to paste into PEFT and Axolotl to train this arm."""
    try:
        targets = chosen.peft_targets()
        axolotl = chosen.unfrozen_parameters()
    except InputError as error:
        return f"<p>{arm}, PEFT and Axolotl: {escape(error.what)}; {escape(error.remedy)}.</p>"
    if len(chosen.tensors) > PASTED:
        return f"<p>{arm}: {len(chosen.tensors)} names, too many to paste; write them as files.</p>"
    listed = yaml.safe_dump(targets, default_flow_style=None, width=96)
    peft = "import yaml\nfrom peft import LoraConfig\n\n" + (
        f'targets = yaml.safe_load("""\n{listed}""")\nconfig = LoraConfig(**targets)\n'
    )
    return "".join(
        f"<details><summary>{arm}: {tool}</summary><pre>{escape(text)}</pre></details>"
        for tool, text in {"PEFT": peft, "Axolotl": axolotl}.items()
    )


def _changes(changes: Comparison, shown: Mapping[str, str]) -> str:
    summary = changes.summary()
    missing = "".join(
        f"<p>Only in the {which}, {escape(model)}: {escape(', '.join(names))}.</p>"
        for which, model, names in (
            ("first", changes.before, changes.only_before),
            ("second", changes.after, changes.only_after),
        )
        if names
    )
    most = changes.table.sort_values("dlogkappa", key=abs, ascending=False).head(ENDS)
    columns = ["kappa_before", "kappa_after", "dlogkappa", "relative_change"]
    return (
        f"<h2>What changed from {escape(changes.before)} to {escape(changes.after)}</h2>"
        f"<p>{int((changes.table['relative_change'] > 0).sum())} of {len(changes.table)} matrices"
        " changed. Means of a group; relative change is ‖ΔW‖/‖W‖ (Frobenius), angles are the"
        " largest principal angles between the spans of the 8 leading (top) and 8 trailing (bottom)"
        " singular vectors, in radians. Trailing singular values lie close together, so small"
        " changes turn their vectors far.</p>"
        + missing
        + shown.get("compare_maps", "")
        + "".join(
            f"<h3>By {'module type' if by == 'type' else by}</h3>"
            + _html(rows.drop(columns="by").rename(columns={"group": by}))
            for by, rows in summary.groupby("by", sort=False)
        )
        + "<h3>Where κ moved most</h3>"
        + _html(most[["tensor", *columns]])
    )


def _ends(table: pd.DataFrame) -> str:
    ordered = table.sort_values(["kappa", "tensor"])
    columns = ["tensor", "rows", "cols", "kappa", "kappa_error", "kappa_mp", "effective_rank"]
    return "".join(
        f"<h2>{title}</h2>" + _html(rows[columns])
        for title, rows in {
            "Best conditioned": ordered.head(ENDS),
            "Worst conditioned": ordered.tail(ENDS)[::-1],
        }.items()
    )


def _errors(table: pd.DataFrame) -> str:
    groups = table.groupby("method", sort=False)["kappa_error"]
    facts = groups.agg(tensors="size", median="median", largest="max").reset_index()
    ways = "".join(f"<li><b>{name}</b>: {text}.</li>" for name, text in _METHODS.items())
    deficient = int((table["rank_deficiency"] > 0).sum())
    return (
        "<h2>How exact κ is</h2><p>Computed in float64, to which every stored dtype widens exactly."
        " The bound is on |κ − κ_true|/κ_true for the weights as stored; where it exceeded the"
        " tolerance, σ_k was refined against the matrix itself. It says nothing of what rounding to"
        f" the stored dtype did before.</p>{_html(facts)}<ul>{ways}</ul>"
        f"<p>{deficient} matrices have singular values of zero, which κ leaves out.</p>"
    )


def _provenance(table: pd.DataFrame) -> str:
    def flat(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None)
        return str(value)

    facts = {"stored as": ", ".join(table["dtype"].unique()), **table.attrs}
    facts |= {name: value for name, value in provenance.describe().items() if value is not None}
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(flat(value))}</td></tr>"
        for name, value in facts.items()
        if value != ""
    )
    return (
        f'<h2>Provenance</h2><div class="wide"><table>{rows}</table></div>'
        '<p class="note">κ = σ_max/σ_min as in arXiv 2506.16289, by kappa_lib.</p>'
    )
