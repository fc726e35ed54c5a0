"""Figures of κ: over the model, against its null, of a selection, beside measures."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kappa_lib.figures import style
from kappa_lib.figures.style import COLOURS, intervals, logarithmic, new_figure, strips
from kappa_lib.spectra.kappa_table import types
from kappa_lib.spectra.spectrum import null_kappa_quantile

# Measure → what it is called where it is shown.
WORDS = {
    "kappa": "κ",
    "kappa_excess": "κ / κ of the null",
    "input_kappa": "κ, input-weighted",
    "head_kappa": "κ of single heads",
    "invariant_kappa": "κ of the invariant (QK, OV, …)",
    "effective_rank_share": "effective rank / k",
    "effective_rank": "effective rank",
    "stable_rank": "stable rank",
    "spectrum_snr": "signal to noise (Spectrum)",
    "alpha": "tail exponent α",
    "trace_log_gap": "trace-log gap (SETOL)",
    "volume_loss": "AM–GM gap",
    "log_volume": "log-volume",
    "frobenius": "Frobenius norm",
    "sigma_max": "largest singular value",
    "gradient": "gradient",
    "bottom_power": "input power along v_k",
    "layer": "layer",
}


def type_colours(kinds: Sequence[str]) -> dict[str, str]:
    """A colour per module type; where there are more than ours, of twenty that begin again."""
    ours = [*COLOURS[:6], COLOURS[7]]  # without the yellow, which is faint in thin lines
    colours = cycle(ours if len(kinds) <= len(ours) else mpl.colormaps["tab20"].colors)
    return dict(zip(kinds, colours, strict=False))


def _by_type_and_layer(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column as a grid, type × layer; the mean where several matrices share a cell."""
    inside = table.dropna(subset=["layer"])
    return inside.pivot_table(index="type", columns="layer", values=column).loc[types(table)]


def heat_map(table: pd.DataFrame) -> Figure:
    """κ, a cell per matrix, layer × type, colours logarithmic."""
    grid = _by_type_and_layer(table, "kappa")
    figure, axis = new_figure(figsize=(9, max(3, 0.25 * len(grid) + 1)))
    _cells(figure, axis, grid, "κ", norm=_a_decade_or_more(grid), cmap="viridis")
    axis.set_xlabel("layer")
    figure.suptitle("κ of each matrix")
    return figure


def change_maps(table: pd.DataFrame) -> Figure:
    """What training changed, layer × type: relative Frobenius change above, Δ log κ below.

    Of a :attr:`kappa_lib.spectra.compare.Comparison.table`, with a change in it.
    """
    # A change of zero has no logarithm: its cell stays empty.
    change = _by_type_and_layer(table, "relative_change").replace(0, np.nan)
    moved = _by_type_and_layer(table, "dlogkappa")
    height = max(5, 0.5 * len(moved) + 1.5)
    figure, axes = new_figure(2, 1, figsize=(9, height), sharex=True)
    norm = _a_decade_or_more(change)
    _cells(figure, axes[0], change, "‖ΔW‖ / ‖W‖", norm=norm, cmap="viridis")
    most = max(float(moved.abs().max(axis=None)), 0.01)  # less is shown as next to nothing
    _cells(figure, axes[1], moved, "Δ log κ", vmin=-most, vmax=most, cmap="PuOr_r")
    axes[1].set_xlabel("layer")
    figure.suptitle("What changed: the weights (above) and their κ (below)")
    return figure


def _a_decade_or_more(grid: pd.DataFrame) -> LogNorm:
    """Logarithmic colours over at least a factor of ten, so that equal values look equal."""
    low, high = float(grid.min(axis=None)), float(grid.max(axis=None))
    middle = np.sqrt(low * high)
    return LogNorm(min(low, middle / np.sqrt(10)), max(high, middle * np.sqrt(10)))


def _cells(figure: Figure, axis: Axes, grid: pd.DataFrame, label: str, **colours: Any) -> None:
    image = axis.imshow(grid.to_numpy(dtype=float), aspect="auto", **colours)
    axis.set_yticks(range(len(grid)), grid.index)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(False)
    figure.colorbar(image, ax=axis, label=label, pad=0.01)


def against_null(table: pd.DataFrame) -> Figure:
    """κ over the κ that the shape alone makes typical, a row per type; to the right training added.

    Grey: where nine in ten untrained matrices of a shape lie. In a row the first layer is on top.
    """
    kinds = types(table)
    figure, axis = new_figure(figsize=(7, 0.5 * len(kinds) + 1.2))
    strips(axis, {kind: table.loc[table["type"] == kind, "kappa_excess"] for kind in kinds})
    for place, kind in enumerate(kinds):
        rows, cols, null = table.loc[table["type"] == kind, ["rows", "cols", "kappa_mp"]].iloc[0]
        spread = [null_kappa_quantile(int(rows), int(cols), share) / null for share in (0.05, 0.95)]
        axis.fill_betweenx([place - 0.4, place + 0.4], *spread, color="k", alpha=0.2, lw=0)
    axis.axvline(1, color="black", lw=0.8)
    logarithmic(axis, "x")
    axis.set_xlabel("κ / κ typical of the shape (grey: 90 % of untrained matrices)")
    figure.suptitle("κ of each matrix beside untrained ones of its shape")
    return figure


def compositions(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """What selections consist of, by type: tensors on the left, parameters on the right.

    ``parts`` are label → :func:`kappa_lib.spectra.kappa_table.composition`.
    """
    figure, axes = new_figure(1, 2, figsize=(9.5, 0.55 * len(parts) + 1.4), sharey=True)
    colours = type_colours(next(iter(parts.values())).index)
    for axis, column, scale in zip(axes, ["tensors", "parameters"], [1, 1e6], strict=True):
        widths = pd.DataFrame({name: part[column] / scale for name, part in parts.items()}).T
        widths.plot.barh(stacked=True, ax=axis, color=colours, width=0.8, legend=False)
        for place, total in enumerate(widths.sum(axis=1)):
            axis.text(total, place, f" {total:,.0f}", va="center", fontsize=9)
        axis.set(xlabel=column if scale == 1 else f"{column} (millions)", ylabel="")
        axis.margins(x=0.14)
        axis.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.suptitle("What each selection consists of")
    return figure


def selection_map(table: pd.DataFrame, arms: Mapping[str, list[str]]) -> Figure:
    """Which matrices of a κ table each arm trains (arm → names): layer × type, a panel per arm."""
    kinds = types(table)
    inside = table.dropna(subset=["layer"])
    height = max(2, 0.25 * len(kinds)) * len(arms)
    figure, axes = new_figure(len(arms), 1, figsize=(8, height), sharex=True, squeeze=False)
    colours = style.arm_colours(arms)
    for axis, (arm, names) in zip(axes[:, 0], arms.items(), strict=True):
        rows = inside[inside["tensor"].isin(set(names))]
        heights = [kinds.index(kind) for kind in rows["type"]]
        axis.scatter(rows["layer"], heights, marker="s", s=40, color=colours[arm])
        axis.set(yticks=range(len(kinds)), yticklabels=kinds, title=f"trained by {arm}")
        axis.set_ylim(len(kinds) - 0.5, -0.5)
    axes[-1, 0].set_xlabel("layer")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def correlations(overall: pd.DataFrame, within: pd.DataFrame) -> Figure:
    """Spearman correlations, measures × measures: over all matrices and within module types."""
    figure, axes = new_figure(1, 2, figsize=(11, 5), sharey=True)
    titles = ["over all matrices", "inside each module type"]
    for axis, matrix, title in zip(axes, [overall, within], titles, strict=True):
        image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        places = range(len(matrix))
        names = [WORDS.get(name, name) for name in matrix.index]
        axis.set_xticks(places, names, rotation=45, ha="right")
        axis.set_yticks(places, names)
        axis.set_title(title)
        axis.grid(False)
        for (row, col), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.6 else "black"
            axis.text(col, row, f"{value:.2f}", color=colour, ha="center", va="center", fontsize=7)
    figure.colorbar(image, ax=axes, label="Spearman correlation", shrink=0.8)
    figure.suptitle("Which measures rank the matrices alike")
    return figure


def two_gauges(before: pd.DataFrame, after: pd.DataFrame, chosen: Sequence[set[str]]) -> Figure:
    """κ tables of one function in two gauges; filled are ``chosen``, the names selected in each."""
    figure, axes = new_figure(1, 2, figsize=(9.5, 4.2), sharey=True)
    titles = ("the checkpoint", "the same function, another gauge")
    colours = type_colours(types(before))
    for axis, table, names, title in zip(axes, (before, after), chosen, titles, strict=True):
        for kind, colour in colours.items():
            rows = table[(table["type"] == kind) & table["layer"].notna()]
            for inside, look in ((False, {"mfc": "none"}), (True, {"mfc": colour, "label": kind})):
                part = rows[rows["tensor"].isin(names) == inside]
                axis.plot(part["layer"], part["kappa"], "o", ms=4, mec=colour, **look)
        axis.set(yscale="log", xlabel="layer", title=f"{title}\nfilled: {len(names)} selected")
    axes[0].set_ylabel("κ")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def rank_correlations(
    found: pd.DataFrame, outcomes: Mapping[str, str], bands: tuple[float, float] | None = None
) -> Figure:
    """ρ within module types with its interval: a row per predictor, a panel per outcome (→ title).

    ``found`` is a table of ``tools/associations.py``: ``predictor`` (or what else has a row),
    ``outcome``, ``within``, ``low``, ``high``; hollow where a ``p_holm`` finds nothing. ``bands``
    are |ρ| of the dotted and of the dashed lines.
    """
    found = found.replace({"predictor": WORDS})
    names = found["predictor"].unique()
    size = (1.5 + 2.8 * len(outcomes), 0.3 * len(names) + 1.5)
    figure, axes = new_figure(1, len(outcomes), figsize=size, sharey=True, squeeze=False)
    for axis, (outcome, title) in zip(axes[0], outcomes.items(), strict=True):
        rows = found[found["outcome"] == outcome].set_index("predictor").loc[names]
        triples = dict(zip(names, rows[["within", "low", "high"]].to_numpy(), strict=True))
        hollow = rows.index[rows["p_holm"] >= 0.05] if "p_holm" in rows else ()
        intervals(axis, triples, COLOURS[0], hollow=hollow)
        axis.axvline(0, color="black", lw=0.8)
        words = ("within ±{}: no useful proxy", "beyond ±{}: a useful one")
        for band, look, said in zip(bands or (), (":", "--"), words, strict=False):
            line = {"color": "black", "ls": look, "lw": 0.8}
            axis.axvline(-band, **line)
            axis.axvline(band, label=f"interval {said.format(band)}", **line)
        axis.set(xlim=(-1, 1), xlabel="Spearman's ρ", xticks=[-1, -0.5, 0, 0.5, 1])
        axis.set_title(title, fontsize=10)
    figure.suptitle("What ranks the tensors of one module type? (ρ with its 95 % interval)")
    if bands:
        entries = axes[0][0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def costs(changes: Mapping[str, pd.DataFrame]) -> Figure:
    """What changes of the tensors cost, a row per name and in it an interval per change.

    ``changes`` are label → frame by name, with middle, low and high, in nats per token of loss.
    """
    names = next(iter(changes.values())).index
    figure, axis = new_figure(figsize=(7.6, 0.5 * len(names) + 1.2))
    for place, (label, rows) in enumerate(changes.items()):
        shift = 0.25 * (place - (len(changes) - 1) / 2)
        triples = dict(zip(names, rows.loc[names].to_numpy(), strict=True))
        intervals(axis, triples, COLOURS[place], shift, label)
    axis.axvline(0, color="black", lw=0.8)
    style.signed_root(axis, 0.01)
    axis.set_xlabel("change of the loss (nats per token; spaced by square roots)")
    figure.legend(fontsize=9, loc="outside lower center", ncols=3)
    return figure
