"""The pictures of a scan's page: which there are, what they show in words, light and dark."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text

from kappa_lib.figures import kappa
from kappa_lib.files import replacing
from kappa_lib.spectra.compare import Comparison
from kappa_lib.spectra.kappa_table import composition
from kappa_lib.spectra.selection import Selection, candidates

# Dots an inch: four pictures, light and dark, stay well under 1 MB.
DPI = 110
INK, PAPER = "#e6e6e6", "#16181c"


@dataclass(frozen=True)
class Picture:
    """One figure as PNG bytes on light and on dark ground, and what it shows in words."""

    light: bytes
    dark: bytes
    alt: str


def draw(
    table: pd.DataFrame, arms: Mapping[str, Selection], changes: Comparison | None, folder: Path
) -> dict[str, Picture]:
    """Draw what the table gives rise to, and write each picture as ``folder/<name>.png``.

    Args:
        table: κ table.
        arms: arm → the proposed selection, empty where the table allows none.
        changes: against a second checkpoint.
        folder: where the light ones go as files.
    """
    inside = candidates(table)
    found: dict[str, tuple[Figure, str]] = {}
    if len(inside):
        low, high = (inside.loc[at] for at in (inside["kappa"].idxmin(), inside["kappa"].idxmax()))
        found["kappa_heat_map"] = (
            kappa.heat_map(table),
            f"Heat map of κ, layer by module type, on a logarithmic colour scale: from"
            f" {low['kappa']:.4g} ({low['tensor']}) to {high['kappa']:.4g} ({high['tensor']}).",
        )
        above = int((inside["kappa_excess"] > 1).sum())
        found["kappa_against_null"] = (
            kappa.against_null(inside),
            f"Measured κ over the κ typical of a random matrix of the same shape, a point a matrix,"
            f" both axes logarithmic: {above} of {len(inside)} lie above the line of equality.",
        )
    if arms:
        names = {arm: chosen.tensors for arm, chosen in arms.items()}
        sizes = ", ".join(f"{a} {len(s.tensors)} tensors" for a, s in arms.items())
        found["kappa_selection"] = (
            kappa.selection_map(table, names),
            f"Which matrices each arm would train, layer by module type: {sizes}.",
        )
        parts = {arm: composition(table, tensors) for arm, tensors in names.items()}
        sizes = ", ".join(f"{arm} {s.parameters:,}" for arm, s in arms.items())
        found["kappa_composition"] = (
            kappa.compositions(parts),
            f"Tensors and parameters of each arm by module type; parameters: {sizes}.",
        )
    changed = changes.table.query("relative_change > 0 and layer.notna()") if changes else ()
    if len(changed):
        moved = changed.loc[changed["dlogkappa"].abs().idxmax()]
        found["compare_maps"] = (
            kappa.change_maps(changes.table),
            f"Relative Frobenius change and Δ log κ from {changes.before} to {changes.after}, layer"
            f" by module type: {len(changed)} of {len(changes.table)} matrices changed; κ moved"
            f" most in {moved['tensor']}, Δ log κ {moved['dlogkappa']:+.3g}.",
        )
    pictures = {}
    for name, (figure, alt) in found.items():
        light = _png(figure)
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(light)
        _darken(figure)
        pictures[name] = Picture(light, _png(figure), alt)
    return pictures


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def _darken(figure: Figure) -> None:
    """Turn a finished figure to dark ground: whatever is black on it becomes light."""
    figure.patch.set_facecolor(PAPER)
    for axis in figure.axes:
        axis.set_facecolor(PAPER)
    black = mpl.colors.to_rgba("black")
    for artist in figure.findobj():
        if isinstance(artist, Spine):
            artist.set_edgecolor(INK)
        elif isinstance(artist, Text) or (
            isinstance(artist, Line2D) and mpl.colors.to_rgba(artist.get_color()) == black
        ):
            artist.set_color(INK)
        elif isinstance(artist, Patch) and artist.get_facecolor() == black:
            artist.set_facecolor(INK)
