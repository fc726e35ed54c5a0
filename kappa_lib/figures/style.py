"""The one matplotlib style, the arms' colours, alternative texts, and saving as PNG and SVG."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kappa_lib import profiles
from kappa_lib.files import replacing

# Okabe-Ito: distinguishable with any colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]
# One colour an arm, in every figure: cold for low κ, warm for high, green and grey for random.
ARM_COLOURS = {
    "selected": COLOURS[0],
    "lowest_in_type": COLOURS[5],
    "lower_of_neighbours": "#332288",
    "lowest_excess": "#6699CC",
    "lowest_input_kappa": "#225555",
    "inverse": COLOURS[1],
    "highest_in_type": COLOURS[4],
    "higher_of_neighbours": "#882255",
    "highest_excess": "#CC6677",
    "highest_input_kappa": "#EE99AA",
    "inverse_matched_size": COLOURS[3],
    "random": "#777777",
    "random_matched_size": COLOURS[2],
    "random_like_selected": "#44AA99",
    "random_like_inverse": "#999933",
    "mlp": "#AA4499",
    "attention": "#661100",
    "mlp_matched_size": "#DDAADD",
    "attention_matched_size": "#AA7744",
    "value": "#88CCEE",
    "key": "#117733",
    "adaptor_only": "#BBBBBB",
    "all": COLOURS[7],
}
STYLE = {
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


class Picture(Figure):
    """A figure that brings its alternative text along into a notebook's output."""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        return {}, {"image/png": {"alt": alternative_text(self)}}


def alternative_text(figure: Figure) -> str:
    """What a figure shows, from its own words: headings, axes, and what the legend names."""
    axes = [axis for axis in figure.axes if axis.axison]
    labels = [name for axis in axes for name in axis.get_legend_handles_labels()[1]]
    parts = {
        "": [figure.get_suptitle(), *(axis.get_title() for axis in axes)],
        "Horizontal: ": [figure.get_supxlabel(), *(axis.get_xlabel() for axis in axes)],
        "Vertical: ": [axis.get_ylabel() for axis in axes],
        "Drawn: ": labels,
    }
    told = (
        (start, ", ".join(dict.fromkeys(" ".join(t.split()) for t in texts if t)))
        for start, texts in parts.items()
    )
    return " ".join(f"{start}{text.rstrip('.')}." for start, text in told if text)


def new_figure(rows: int = 1, cols: int = 1, **options: Any) -> tuple[Figure, Any]:
    """``plt.subplots`` in this style, taken off pyplot's list of open figures.

    A figure left open is drawn a second time when a notebook cell ends, with or without a
    trailing semicolon under nbval; a closed one is shown once, as the cell's value.
    """
    mpl.rcParams.update(STYLE)
    figure, axes = plt.subplots(rows, cols, FigureClass=Picture, **options)
    plt.close(figure)
    return figure, axes


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """The colour of each arm: of the table, or by position for arms that a user has named."""
    names = list(dict.fromkeys(arms))
    own = [arm for arm in names if arm not in ARM_COLOURS]
    spare = list(reversed(ARM_COLOURS.values()))
    return {a: ARM_COLOURS.get(a) or spare[own.index(a) % len(spare)] for a in names}


def label_ends(
    axis: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]
) -> None:
    """Write each arm's name beside its curve's end, the names moved apart where they would meet.

    ``ends`` are in data coordinates; one of NaN has no name. All curves must have been drawn.
    """
    axis.autoscale_view()  # or the limits would be those of an empty panel still
    names = sorted(
        (a for a, end in ends.items() if np.isfinite(end).all()), key=lambda a: ends[a][1]
    )
    if not names:
        return
    to_axes = (axis.transData + axis.transAxes.inverted()).transform
    heights = np.array([to_axes(ends[arm])[1] for arm in names])
    gap = 11 * axis.figure.dpi / 72 / axis.get_window_extent().height  # a line of small type
    steps = gap * np.arange(len(names))
    upwards = np.maximum.accumulate(heights - steps) + steps
    downwards = -(np.maximum.accumulate(-heights[::-1] - steps) + steps)[::-1]
    placed = (upwards + downwards) / 2
    placed -= max(0.0, placed[-1] - 1)
    line = {"arrowstyle": "-", "lw": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
    for arm, height in zip(names, placed, strict=True):
        axis.annotate(
            arm.replace("_", " "),
            ends[arm],
            (1.04, height),
            textcoords="axes fraction",
            color=colours[arm],
            size=8,
            va="center",
            annotation_clip=False,
            arrowprops={**line, "color": colours[arm]},
        )


def save(figure: Figure, folder: Path, name: str) -> None:
    """Save ``figure`` as ``folder/name.png`` and ``.svg``; it keeps the layout that it is given."""
    told = {"Description": alternative_text(figure)}
    for suffix in ("svg", "png"):
        with replacing(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=told | ({"Date": None} if suffix == "svg" else {}))
        # Or every drawing would find it anew, and be made twice for that.
        with mpl.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)


def show(figure: Figure, name: str, title: str = "") -> Figure:
    """Save ``figure`` among the current profile's figures as ``name.png`` and ``.svg``; return it.

    A ``title`` replaces the figure's heading. InputError where no profile was loaded.
    """
    if title:
        figure.suptitle(title)
    save(figure, profiles.current().output / "figures", name)
    return figure
