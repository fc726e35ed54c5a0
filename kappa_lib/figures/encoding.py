"""κ beside what tensors encode: scatters within types, predictors side by side, surgery.

A table of tensors is one of :func:`kappa_lib.evidence.encoding.read`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from kappa_lib.figures.kappa import dots
from kappa_lib.figures.style import COLOURS, new_figure
from kappa_lib.spectra.kappa_table import types

# Loss changes below this many nats a token are drawn on a linear scale.
LINEAR = 0.01
SCALE = f"(symmetric log: linear within ±{LINEAR})"
# Predictor → what it is called where it is shown.
WORDS = {
    "kappa": "κ",
    "kappa_excess": "κ over its null",
    "input_kappa": "κ, input-weighted",
    "head_kappa": "κ of single heads",
    "effective_rank_share": "effective rank over k",
    "stable_rank": "stable rank",
    "alpha": "tail exponent α",
    "trace_log_gap": "trace-log gap (SETOL)",
    "volume_loss": "volume lost (AM-GM gap)",
    "frobenius": "Frobenius norm",
    "gradient": "gradient",
    "bottom_power": "input power along v_k",
    "layer": "layer",
}


def within_types(
    table: pd.DataFrame, outcomes: Mapping[str, str], found: Mapping[tuple[str, str], Sequence]
) -> Figure:
    """κ against outcomes (column → label), a row each; a panel a module type, a point a tensor.

    ``found`` is (outcome, type) → (ρ, low, high), shown above each panel.
    """
    kinds = types(table)
    figure, axes = new_figure(
        len(outcomes), len(kinds), figsize=(2.1 * len(kinds), 2.5 * len(outcomes)), squeeze=False
    )
    for row, (outcome, label) in zip(axes, outcomes.items(), strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            rows = table[table["type"] == kind]
            colours = {"c": rows["layer"], "cmap": "viridis", "s": 14, "rasterized": True}
            points = axis.scatter(rows["kappa"], rows[outcome], **colours)
            rho, low, high = found[outcome, kind]
            axis.set_title(f"{kind}\nρ {rho:+.2f} [{low:+.2f}, {high:+.2f}]", fontsize=9)
            axis.set_xscale("log")
            axis.minorticks_off()
            # Most ranges hold no whole decade, where a logarithmic axis would show no number.
            ends = [rows["kappa"].min(), rows["kappa"].max()]
            axis.set_xticks(ends, [f"{end:,.3g}" if end < 1e3 else f"{end:.0e}" for end in ends])
            if outcome.startswith("kl_"):
                axis.set_yscale("log")
            axis.tick_params(labelsize=7, which="both")
        row[0].set_ylabel(label, fontsize=9)
    figure.supxlabel("κ, logarithmic, from the smallest to the largest of a type", fontsize=10)
    figure.colorbar(points, ax=axes, label="layer", shrink=0.6)
    return figure


def predictors(
    associations: pd.DataFrame, outcomes: Mapping[str, str], bands: tuple[float, float]
) -> Figure:
    """ρ of every predictor within types with its interval, a panel an outcome (→ title).

    The ``associations`` are of :func:`kappa_lib.evidence.encoding.associations`. A measure whose
    interval lies between the dotted lines is no useful stand-in; one whose interval lies beyond a
    dashed line, on either side, is; ``bands`` are |ρ| of the dotted and of the dashed lines.
    Hollow where the permutation test, corrected by Holm, finds nothing.
    """
    names = list(dict.fromkeys(associations["predictor"]))
    size = (2.6 * len(outcomes) + 1.4, 0.3 * len(names) + 1.4)
    figure, axes = new_figure(1, len(outcomes), figsize=size, sharey=True, squeeze=False)
    for axis, (outcome, title) in zip(axes[0], outcomes.items(), strict=True):
        rows = associations[associations["outcome"] == outcome]
        for row in rows.itertuples():
            place = names.index(row.predictor)
            colour = COLOURS[1] if row.predictor == "kappa" else COLOURS[0]
            axis.plot([row.low, row.high], [place, place], color=colour, lw=1.5)
            filled = colour if row.p_holm < 0.05 else "white"
            axis.plot(row.within, place, "o", ms=5, color=colour, markerfacecolor=filled)
        axis.axvline(0, color="black", lw=0.8)
        says = f"within ±{bands[0]}: no useful stand-in", f"beyond ±{bands[1]}: a useful one"
        for band, style, label in zip(bands, (":", "--"), says, strict=True):
            line = {"color": "black", "ls": style, "lw": 0.8}
            axis.axvline(-band, **line)
            axis.axvline(band, label=f"interval {label}", **line)
        axis.set(xlim=(-1, 1), title=title, xlabel="Spearman ρ within types")
        axis.title.set_fontsize(9)
    axes[0][0].set_yticks(range(len(names)), [WORDS.get(name, name) for name in names])
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def surgery(tensors: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """κ before and after surgery, and what it cost: σ_k, another direction, noise.

    ``costs`` are of :func:`kappa_lib.evidence.encoding.surgery_table`.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(10, 3.8))
    dots(left, tensors, tensors["kappa"], tensors["kappa_reversed"])
    left.set(xscale="log", yscale="log", xlabel="κ before", ylabel="κ after shrinking σ_k alone")
    left.legend(fontsize=7, loc="upper right", ncols=2)
    scopes = list(dict.fromkeys(costs["scope"]))
    labels = {
        "surgery": (-0.25, COLOURS[1], "σ_k"),
        "surgery_elsewhere": (0.0, COLOURS[0], "another direction"),
        "surgery_noise": (0.25, COLOURS[2], "noise of that norm"),
    }
    for change, (shift, colour, label) in labels.items():
        rows = costs[costs["change"] == change]
        places = [scopes.index(scope) + shift for scope in rows["scope"]]
        spread = [rows["loss"] - rows["low"], rows["high"] - rows["loss"]]
        own = {"color": colour, "label": label}
        right.errorbar(rows["loss"], places, xerr=spread, fmt="o", ms=4, lw=1.5, **own)
    right.set_xscale("symlog", linthresh=LINEAR)
    right.axvline(0, color="black", lw=0.8)
    right.set_yticks(range(len(scopes)), scopes)
    right.invert_yaxis()
    right.set_xlabel(f"change of the loss, nats a token\n{SCALE}")
    right.legend(fontsize=8, loc=(0.62, 0.4))
    return figure


def smallest_direction(tensors: pd.DataFrame) -> Figure:
    """Loss when σ_k of one tensor is taken away, over the input's power along v_k."""
    figure, axis = new_figure(figsize=(6.2, 3.8))
    dots(axis, tensors, tensors["bottom_power"], tensors["loss_surgery"], size=4)
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=LINEAR)
    # Room above the largest, which the margins of a symmetric log axis do not leave.
    ends = tensors["loss_surgery"].min(), tensors["loss_surgery"].max()
    axis.set_ylim(2 * min(ends[0], -LINEAR / 2), 3 * max(ends[1], LINEAR / 2))
    axis.axvline(1, color="black", lw=0.8)
    axis.set(
        xlabel="input power along v_k, over the median singular direction",
        ylabel=f"change of the loss without σ_k, nats a token\n{SCALE}",
    )
    axis.legend(fontsize=8, loc="upper left")
    return figure


def anisotropy(table: pd.DataFrame, changes: Mapping[str, str]) -> Figure:
    """Loss of every tensor under several changes (→ label), a panel a type, over the layers."""
    kinds = types(table)
    size = (1.9 * len(kinds) + 1.6, 2.9)
    figure, axes = new_figure(1, len(kinds), figsize=size, sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        rows = table[table["type"] == kind].sort_values("layer")
        for colour, (change, label) in zip(COLOURS, changes.items(), strict=False):
            own = {"color": colour, "label": label}
            axis.plot(rows["layer"], rows[f"loss_{change}"], "o-", ms=2, lw=1, **own)
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.set(title=kind, xlabel="layer")
    axes[0][0].set_ylabel(f"change of the loss, nats a token\n{SCALE}", fontsize=9)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
