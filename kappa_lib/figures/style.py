"""The one matplotlib style, the arms' colours, and saving as PNG and SVG."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kappa_lib.files import replacing

# Okabe-Ito: distinguishable with any colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]
ARM_COLOURS = {"selected": COLOURS[0], "inverse": COLOURS[1], "random": COLOURS[2]}


def use_style() -> None:
    """Set matplotlib's defaults for all figures of this project."""
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 150,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "legend.frameon": False,
            "svg.hashsalt": "kappa",  # the same figure gives the same SVG bytes
        }
    )


def new_figure(rows: int = 1, cols: int = 1, **options: Any) -> tuple[Figure, Any]:
    """``plt.subplots`` in this style, taken off pyplot's list of open figures.

    A figure left open is drawn a second time when a notebook cell ends, with or without a
    trailing semicolon under nbval; a closed one is shown once, as the cell's value.

    Args:
        rows: rows of axes.
        cols: columns of axes.
        options: passed on to ``plt.subplots``.

    Returns:
        The figure and its axes (one, or an array).
    """
    use_style()
    figure, axes = plt.subplots(rows, cols, **options)
    plt.close(figure)
    return figure, axes


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Save ``figure`` as ``folder/name.png`` and ``.svg``; return the PNG's path."""
    for suffix in ("svg", "png"):
        path = folder / f"{name}.{suffix}"
        with replacing(path) as temporary:
            figure.savefig(temporary, metadata={"Date": None} if suffix == "svg" else None)
    return path
