"""The verdicts on the paper's claims at a glance."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from kappa_lib.figures.style import COLOURS, new_figure

SHADES = {
    "holds": COLOURS[2],
    "holds with a correction": COLOURS[5],
    "fails": COLOURS[1],
    "no relevant difference": COLOURS[0],
    "undecided": "#c9c9c9",
    "confounded": COLOURS[4],
    "not testable here": "#999999",
    "not measured": "#e6e6e6",
}


def verdicts(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Stacked bars, one a group of claims.

    Args:
        counts: group -> verdict -> number of claims.
    """
    figure, axis = new_figure(figsize=(7.5, 0.45 * len(counts) + 1.3))
    groups = list(counts)
    left = np.zeros(len(groups))
    for verdict, shade in SHADES.items():
        widths = np.array([counts[group].get(verdict, 0) for group in groups])
        if not widths.any():
            continue
        bars = axis.barh(groups, widths, left=left, color=shade, label=verdict)
        axis.bar_label(bars, [str(n) if n else "" for n in widths], label_type="center")
        left += widths
    axis.invert_yaxis()
    axis.grid(False)
    axis.set_xlabel("number of claims")
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure
