"""The one matplotlib style: colours, axes, rows of dots, alternative texts, saving and showing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kappa_lib import profiles
from kappa_lib.files import replacing

# Okabe-Ito: distinguishable with any colour vision.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]
# One colour an arm, in every figure: cold for low κ, warm for high, green and grey for random.
ARM_COLOURS = {
    "selected": COLOURS[0],
    "lowest_in_type": COLOURS[5],
    "lower_of_neighbours": "#332288",
    "lowest_input_kappa": "#225555",
    "inverse": COLOURS[1],
    "highest_in_type": COLOURS[4],
    "higher_of_neighbours": "#882255",
    "highest_input_kappa": "#EE99AA",
    "inverse_matched_size": COLOURS[3],
    "random": "#777777",
    "random_matched_size": COLOURS[2],
    "random_like_selected": "#44AA99",
    "mlp": "#AA4499",
    "attention": "#661100",
    "mlp_matched_size": "#DDAADD",
    "attention_matched_size": "#AA7744",
    "value": "#88CCEE",
    "key": "#117733",
    "adaptor_only": "#BBBBBB",
    "peft_default": "#6699CC",
    "peft_all": "#999933",
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
    parts = {
        "": [figure.get_suptitle(), *(axis.get_title() for axis in axes)],
        "Horizontal: ": [axis.get_xlabel() for axis in axes],
        "Vertical: ": [axis.get_ylabel() for axis in axes],
        "Drawn: ": [name for axis in axes for name in axis.get_legend_handles_labels()[1]],
        "Below: ": [figure.get_supxlabel()],
    }
    told = []
    for start, texts in parts.items():
        if text := "; ".join(dict.fromkeys(" ".join(t.split()) for t in texts if t)):
            told.append(f"{start}{text.rstrip('.')}.")
    return " ".join(told)


def new_figure(rows: int = 1, cols: int = 1, **options: Any) -> tuple[Figure, Any]:
    """``plt.subplots`` in this style, closed: a notebook would show an open figure twice."""
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


def logarithmic(axis: Axes, *names: str) -> None:
    """Make the ``x`` or ``y`` axes named logarithmic, once all is drawn; up to about two decades
    are labelled 1, 2, 5, 10, more with the decades alone."""
    for name in names:
        getattr(axis, f"set_{name}scale")("log")
        low, high = getattr(axis, f"get_{name}lim")()
        scale = getattr(axis, f"{name}axis")
        if high < 200 * low:
            subs = (1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 5, 7)
            scale.set_major_locator(LogLocator(subs=subs))
        if high < 1e5 and low > 1e-4:
            scale.set_major_formatter("{x:,g}")
        scale.set_minor_formatter(NullFormatter())


def signed_root(axis: Axes, unit: float, name: str = "x") -> None:
    """Space an axis by square roots, on either side of zero, and label 1, 5, 25, … ``unit``; what
    lies within a unit takes little room, which on a symmetric logarithmic axis it does not."""
    low, high = getattr(axis, f"get_{name}lim")()
    getattr(axis, f"set_{name}scale")("function", functions=(_root, lambda y: y * np.abs(y)))
    steps = unit * np.array([1, 5, 25, 100, 500, 2500])
    places = [x for x in (*-steps[::-1], 0, *steps) if low <= x <= high]
    width, height = axis.figure.get_size_inches() * axis.get_position().size
    share = 0.2 / height if name == "y" else 0.43 / width  # of the axis, for one label
    room = (_root(high) - _root(low)) * share
    labels = {0: "0"}
    for x in sorted(places, key=abs, reverse=True):  # from outside inwards, where there is room
        if all(abs(_root(x) - _root(y)) > room * (1 if y else 0.6) for y in labels):
            labels[x] = f"{x:+g}".replace("-", "−")
    getattr(axis, f"set_{name}ticks")(places, [labels.get(x, "") for x in places])
    getattr(axis, f"set_{name}lim")(low, high)


def _root(x: Any) -> Any:
    return np.sign(x) * np.sqrt(np.abs(x))


def intervals(
    axis: Axes,
    rows: Mapping[str, Sequence[float]],
    colour: str,
    shift: float = 0.0,
    label: str | None = None,
    hollow: Collection[str] = (),
) -> None:
    """A row per name, the first on top: a line from low to high with a dot in the middle.

    ``rows`` are name → (middle, low, high); the names in ``hollow`` have a dot with white inside.
    """
    for place, (name, (middle, low, high)) in enumerate(rows.items()):
        axis.plot([low, high], [place + shift] * 2, color=colour, lw=1.5)
        inside = "white" if name in hollow else colour
        own = {"color": colour, "markerfacecolor": inside, "label": None if place else label}
        axis.plot(middle, place + shift, "o", ms=5, **own)
    _rows(axis, rows)


def strips(axis: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """A row per name, the first on top, and in it a dot per value, the first of them on top."""
    for place, row in enumerate(values.values()):
        heights = place + np.linspace(-0.3, 0.3, len(row) + 2)[1:-1]
        axis.plot(row, heights, "o", ms=3, color=COLOURS[0], alpha=0.8, rasterized=True)
    _rows(axis, values)


def _rows(axis: Axes, names: Collection[str]) -> None:
    axis.set_yticks(range(len(names)), list(names))
    axis.set_ylim(len(names) - 0.5, -0.5)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Save ``figure`` as ``folder/name.png`` and ``.svg``; it keeps the layout that it is given."""
    told = {"Description": alternative_text(figure)}
    for suffix in ("png", "svg"):
        with replacing(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=told | ({"Date": None} if suffix == "svg" else {}))
        # Or every drawing would find it anew, and be made twice for that.
        with mpl.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)


def show(figure: Figure, name: str, title: str = "") -> Figure:
    """Save ``figure`` among the current profile's figures, see :func:`save`; return it.

    A ``title`` replaces the figure's heading. InputError where no profile was loaded.
    """
    if title:
        figure.suptitle(title)
    save(figure, profiles.current().output / "figures", name)
    return figure
