"""κ beside what tensors encode: correlations within types, and what changes of a tensor cost.

A table of tensors is one of :func:`kappa_lib.evidence.encoding.read`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kappa_lib.figures.kappa import WORDS, type_colours
from kappa_lib.figures.style import COLOURS, intervals, logarithmic, new_figure, signed_root
from kappa_lib.spectra.kappa_table import types

NATS = 0.01  # the first tick of a change of the loss, in nats per token


def within_types(
    kinds: Sequence[str],
    outcomes: Mapping[str, str],
    found: Mapping[tuple[str, str], Sequence[float]],
) -> Figure:
    """ρ of κ with outcomes (column → label) inside each module type, a panel per outcome.

    ``found`` is (outcome, type) → (ρ, low, high).
    """
    size = (1.5 + 3.4 * len(outcomes), 0.3 * len(kinds) + 1.5)
    figure, axes = new_figure(1, len(outcomes), figsize=size, sharey=True, squeeze=False)
    for axis, (outcome, label) in zip(axes[0], outcomes.items(), strict=True):
        intervals(axis, {kind: found[outcome, kind] for kind in kinds}, COLOURS[0])
        _correlation(axis, label)
    figure.suptitle("Does κ rank the tensors of one module type? (ρ with its 95 % interval)")
    return figure


def _correlation(axis: Axes, title: str) -> None:
    axis.axvline(0, color="black", lw=0.8)
    axis.set(xlim=(-1, 1), xlabel="Spearman's ρ", xticks=[-1, -0.5, 0, 0.5, 1])
    axis.set_title(title, fontsize=10)


def predictors(
    associations: pd.DataFrame, outcomes: Mapping[str, str], bands: tuple[float, float]
) -> Figure:
    """ρ of every predictor within types with its interval, a panel per outcome (→ title).

    The table is that of ``tools/associations.py``; ``bands`` are |ρ| of the dotted and of the
    dashed lines. Hollow where the permutation test, corrected by Holm, finds nothing.
    """
    names = list(dict.fromkeys(associations["predictor"].replace(WORDS)))
    size = (2.6 * len(outcomes) + 1.4, 0.3 * len(names) + 1.6)
    figure, axes = new_figure(1, len(outcomes), figsize=size, sharey=True, squeeze=False)
    for axis, (outcome, title) in zip(axes[0], outcomes.items(), strict=True):
        rows = associations[associations["outcome"] == outcome].replace({"predictor": WORDS})
        rows = rows.set_index("predictor").loc[names]
        hollow = rows.index[rows["p_holm"] >= 0.05]
        triples = {row.Index: (row.within, row.low, row.high) for row in rows.itertuples()}
        intervals(axis, triples, COLOURS[0], hollow=hollow)
        words = f"within ±{bands[0]}: no useful proxy", f"beyond ±{bands[1]}: a useful one"
        for band, style, label in zip(bands, (":", "--"), words, strict=True):
            line = {"color": "black", "ls": style, "lw": 0.8}
            axis.axvline(-band, **line)
            axis.axvline(band, label=f"interval {label}", **line)
        _correlation(axis, title)
    figure.suptitle("Which measure ranks the tensors of one module type?")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def surgery(costs: pd.DataFrame) -> Figure:
    """What it costs to shrink σ_k of a whole type, and what the two controls cost.

    ``costs`` are of :func:`kappa_lib.evidence.encoding.surgery_table`.
    """
    labels = {
        "surgery": "smallest singular value shrunk",
        "surgery_elsewhere": "as much off a random one",
        "surgery_noise": "noise of the same norm",
    }
    names = list(dict.fromkeys(costs["scope"]))
    figure, axis = new_figure(figsize=(7.6, 0.5 * len(names) + 1.2))
    for place, (change, label) in enumerate(labels.items()):
        rows = costs[costs["change"] == change].set_index("scope")[["loss", "low", "high"]]
        found = dict(zip(names, rows.loc[names].to_numpy(), strict=True))
        intervals(axis, found, COLOURS[1 - place], 0.25 * (place - 1), label)
    _losses(axis, "The loss when κ of a whole module type is raised (95 % interval)")
    return figure


def _losses(axis: Axes, title: str) -> None:
    """Across, a change of the loss; a legend below."""
    axis.axvline(0, color="black", lw=0.8)
    signed_root(axis, NATS)
    axis.set(title=title, xlabel="change of the loss (nats per token; spaced by square roots)")
    axis.figure.legend(fontsize=9, loc="outside lower center", ncols=3)


def smallest_direction(tensors: pd.DataFrame) -> Figure:
    """Loss when σ_k of one tensor is taken away, against the input's power along v_k."""
    figure, axis = new_figure(figsize=(6.6, 4))
    for kind, colour in type_colours(types(tensors)).items():
        x, y = tensors.loc[tensors["type"] == kind, ["bottom_power", "loss_surgery"]].to_numpy().T
        axis.plot(x, y, "o", ms=4, color=colour, label=kind, rasterized=True)
    axis.axvline(1, color="black", lw=0.8)
    logarithmic(axis, "x")
    signed_root(axis, NATS, "y")
    axis.set(
        title="What a tensor's smallest singular value is worth",
        xlabel="input power along v_k / that along the median singular direction",
        ylabel="change of the loss without σ_k\n(nats per token; spaced by square roots)",
    )
    axis.legend(fontsize=8, loc="upper left")
    return figure


def anisotropy(table: pd.DataFrame, changes: Mapping[str, str]) -> Figure:
    """What changes of single tensors (→ label) cost, by type: median, and 10th to 90th percentile.

    A change's costs are the column ``loss_<change>``.
    """
    kinds = types(table)
    figure, axis = new_figure(figsize=(7.6, 0.5 * len(kinds) + 1.2))
    shifts = [0.25 * (i - (len(changes) - 1) / 2) for i in range(len(changes))]
    for colour, shift, (change, label) in zip(COLOURS, shifts, changes.items(), strict=False):
        by_type = table.groupby("type")[f"loss_{change}"]
        rows = by_type.quantile([0.5, 0.1, 0.9]).unstack().loc[kinds]
        intervals(axis, dict(zip(kinds, rows.to_numpy(), strict=True)), colour, shift, label)
    _losses(axis, "The loss when one tensor changes (median and 80 % of tensors)")
    return figure
