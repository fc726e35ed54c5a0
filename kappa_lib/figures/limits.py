"""Figures of the second theory notebook: what κ leaves open, nonlinearities, shape, storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kappa_lib.figures.style import COLOURS, new_figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BandPanel:
    """One panel of :func:`bands`: the attainable interval over κ, and random spectra inside it.

    Attributes:
        title: of the panel.
        low, high: ends of the band at ``kappas`` in nats, shape (K,).
        dots: quantity of random spectra at ``dot_kappas`` in nats, shape (N,).
    """

    title: str
    low: Array
    high: Array
    dots: Array


def bands(kappas: Array, dot_kappas: Array, panels: Sequence[BandPanel]) -> Figure:
    """Log-volume and information against κ at a fixed norm, the attainable band shaded.

    Args:
        kappas: where the bands are given, shape (K,).
        dot_kappas: κ of the random spectra, shape (N,).
        panels: one for each quantity.
    """
    figure, axes = new_figure(1, len(panels), figsize=(2.9 * len(panels), 3.2))
    for axis, panel in zip(axes, panels, strict=True):
        axis.fill_between(kappas, panel.low, panel.high, color=COLOURS[5], alpha=0.4, lw=0)
        axis.plot(kappas, panel.high, color=COLOURS[0], lw=1.5)
        axis.plot(kappas, panel.low, color=COLOURS[0], lw=1.5)
        axis.plot(dot_kappas, panel.dots, ".", color=COLOURS[1], markersize=3, alpha=0.6)
        axis.plot(1, panel.high[0], "*", color="black", markersize=10, clip_on=False)
        axis.set(title=panel.title, xlabel="condition number κ", xscale="log")
    axes[0].set_ylabel("nats")
    return figure


def activations(
    inputs: Array,
    slopes: Mapping[str, Array],
    means: Array,
    changes: Mapping[str, Array],
    estimates: Mapping[str, Array],
) -> Figure:
    """Slopes of activations, and the entropy they add to a Gaussian input of a given mean.

    Args:
        inputs: where the slopes are given, shape (P,).
        slopes: name -> |φ'|, shape (P,).
        means: means of the Gaussian input, shape (M,).
        changes: name -> E log|φ'(Y)| in nats, shape (M,).
        estimates: name -> h(φ(Y)) - h(Y) by nearest neighbours at every second mean.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(9.5, 3.6))
    for colour, name in zip(COLOURS, slopes, strict=False):
        left.plot(inputs, slopes[name], color=colour, label=name)
        if name in changes:
            right.plot(means, changes[name], color=colour)
            right.plot(means[::2], estimates[name], "o", color=colour, markersize=4)
    left.axhline(1, color="black", lw=1, ls="--")
    left.set(title="slope; contractive below the dashes", xlabel="input y", ylabel="|φ′(y)|")
    left.set_ylim(-0.05, 1.6)
    left.legend(ncols=3, fontsize=8, loc="upper left")
    right.axhline(0, color="black", lw=1, ls="--")
    right.set(
        title="entropy added (dots: from samples)",
        xlabel="mean of the input (bias)",
        ylabel="h(φ(Y)) − h(Y) (nats)",
        ylim=(-3, 0.4),
    )
    return figure


def information_changes(panels: Mapping[str, tuple[Array, Mapping[str, Array]]]) -> Figure:
    """I(Y; φ(Y) + N) - I(Y; Y + N) against the noise, a panel for each kind of input.

    Args:
        panels: title -> (noise standard deviations, name -> change in nats).
    """
    figure, axes = new_figure(1, len(panels), figsize=(4.6 * len(panels), 3.3), sharex=True)
    for axis, (title, (noises, changes)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for colour, (name, change) in zip(COLOURS, changes.items(), strict=False):
            axis.semilogx(noises, change, "o-", color=colour, markersize=3, label=name)
        axis.axhline(0, color="black", lw=1, ls="--")
        axis.set(title=title, xlabel="noise standard deviation σₙ")
    np.atleast_1d(axes)[0].set_ylabel("information gained by φ (nats)")
    np.atleast_1d(axes)[0].legend(fontsize=8)
    return figure


def null_by_shape(
    aspects: Array,
    curves: Mapping[str, Array],
    sampled: Mapping[float, Array],
    marks: Mapping[str, tuple[float, float]],
) -> Figure:
    """κ of random matrices by aspect ratio, with the null curve and a model's shapes.

    Args:
        aspects: β = shorter side over longer, shape (A,).
        curves: label -> null κ at ``aspects``, shape (A,).
        sampled: β -> κ of random matrices of that aspect, shape (N,).
        marks: label -> (β, null κ) of a model's tensors.
    """
    figure, axis = new_figure(figsize=(6.4, 4.2))
    for colour, (label, curve) in zip(COLOURS[1:], curves.items(), strict=False):
        axis.semilogy(aspects, curve, color=colour, label=label)
    for i, (aspect, kappas) in enumerate(sampled.items()):
        label = "random matrices" if i == 0 else None
        axis.plot(np.full(len(kappas), aspect), kappas, ".", color=COLOURS[0], label=label)
    offsets = [(-4, 26), (6, -24), (14, 14), (-10, 8)]
    for (label, (aspect, kappa)), (dx, dy) in zip(marks.items(), offsets, strict=False):
        axis.plot(aspect, kappa, "D", color="black", markersize=6, zorder=4)
        axis.annotate(
            label,
            (aspect, kappa),
            (dx, dy),
            textcoords="offset points",
            ha="right" if dx < -5 else "left",
            arrowprops={"arrowstyle": "-", "color": "grey"},
        )
    axis.set(xlabel="aspect ratio β = shorter side / longer side", ylabel="κ of untrained weights")
    axis.legend(loc="upper left")
    return figure


def storage(
    spectra: Mapping[str, Array], kappas: Array, reads: Mapping[str, Array], size: int
) -> Figure:
    """Spectra as stored, and κ as read from storage against the true κ.

    Args:
        spectra: storage -> singular values of one matrix, descending, shape (n,).
        kappas: true κ, shape (K,).
        reads: storage -> κ of the stored matrix, shape (seeds, K).
        size: n, for the title.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(9.5, 3.6))
    for colour, (label, s) in zip(["black", *COLOURS[1:]], spectra.items(), strict=False):
        style = "--" if colour == "black" else "-"
        order = 3 if colour == "black" else 2
        left.semilogy(np.arange(1, len(s) + 1), s, style, color=colour, label=label, zorder=order)
    for colour, (label, read) in zip(COLOURS, reads.items(), strict=False):
        right.loglog(kappas, np.median(read, axis=0), "o-", color=colour, label=label, markersize=4)
        right.fill_between(kappas, read.min(axis=0), read.max(axis=0), color=colour, alpha=0.2)
    right.loglog(kappas, kappas, "--", color="black", lw=1)
    left.set(title=f"one {size}×{size} matrix", xlabel="index i", ylabel="singular value σᵢ")
    left.legend(fontsize=8)
    right.set(title="median and range over seeds", xlabel="true κ", ylabel="κ read from storage")
    right.legend(fontsize=8)
    return figure
