"""Figures of the same function in another gauge: the choice that flips, and what training shows."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kappa_lib.figures.kappa import type_colours
from kappa_lib.figures.style import COLOURS, new_figure
from kappa_lib.spectra.kappa_table import types


def two_gauges(before: pd.DataFrame, after: pd.DataFrame, chosen: Sequence[set[str]]) -> Figure:
    """κ of every matrix in two gauges of one model; filled are ``chosen``, the selected of each.

    ``before`` and ``after`` are κ tables of the model and of the same function in another gauge.
    """
    figure, axes = new_figure(1, 2, figsize=(9.5, 4.2), sharey=True)
    titles = ("the checkpoint", "the same function, another gauge")
    colours = type_colours(types(before))
    for axis, table, names, title in zip(axes, (before, after), chosen, titles, strict=True):
        for kind, colour in colours.items():
            rows = table[(table["type"] == kind) & table["layer"].notna()]
            for inside, face in ((False, "none"), (True, colour)):
                part = rows[rows["tensor"].isin(names) == inside]
                axis.plot(part["layer"], part["kappa"], "o", ms=4, mec=colour, mfc=face)
        axis.set(yscale="log", xlabel="layer", title=f"{title}\nfilled: {len(names)} selected")
    axes[0].set_ylabel("κ")
    entries = [
        Line2D([], [], ls="", marker="o", color=c, label=kind) for kind, c in colours.items()
    ]
    figure.legend(handles=entries, loc="outside right upper")
    return figure


ARM_COLOURS = tuple(COLOURS[i] for i in (0, 4, 1, 2))  # cold to warm, and one more


def learning_and_forgetting(table: pd.DataFrame, panels: Mapping[str, Mapping[str, str]]) -> Figure:
    """Paths over training: held-out loss across (learning to the right), KL up.

    A thin line per seed, a thick one for their mean, which is taken where all seeds are.

    Args:
        table: evaluations, with ``arm``, ``seed``, ``step``, ``heldout_loss`` and ``kl``.
        panels: title → arm → what the legend calls it; up to four arms.
    """
    size, same = (1.5 + 3.2 * len(panels), 4), {"sharex": True, "sharey": True}
    figure, axes = new_figure(1, len(panels), figsize=size, squeeze=False, **same)
    for axis, (title, labels) in zip(axes[0], panels.items(), strict=True):
        for (arm, label), colour in zip(labels.items(), ARM_COLOURS, strict=False):
            rows = table[table["arm"] == arm]
            if len(rows):
                _paths(axis, rows, colour, f"{label} (n = {rows['seed'].nunique()})")
        axis.set(title=title, xlabel="held-out loss, nats per token (learning →)")
        axis.legend(loc="upper left")
    axes[0, 0].set_ylabel("KL from the base model,\nnats per token (forgetting ↑)")
    axes[0, 0].invert_xaxis()
    return figure


def _paths(axis: Axes, rows: pd.DataFrame, colour: str, label: str) -> None:
    for _, run in rows.groupby("seed"):
        axis.plot(run["heldout_loss"], run["kl"], "-", color=colour, lw=0.6, alpha=0.35)
    # Of the first, second … evaluation of each seed: a loss is not reached at the same step.
    number = rows.sort_values("step").groupby("seed").cumcount()
    each = rows.groupby(number)[["heldout_loss", "kl"]]
    mean = each.mean()[each.size() == rows["seed"].nunique()]
    axis.plot(mean["heldout_loss"], mean["kl"], "o-", color=colour, ms=4, lw=2, label=label)
