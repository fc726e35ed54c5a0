"""Figures of the theory notebooks: the theorem, what κ leaves open, shape, storage."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from kappa_lib.figures.style import COLOURS, new_figure

Array = NDArray[np.float64]
# Each activation's colour in every figure; marker and its size, so that curves which coincide
# are all seen.
ACTIVATIONS = {
    "tanh": (COLOURS[0], "o", 3),
    "softplus": (COLOURS[1], "o", 3),
    "leaky ReLU": (COLOURS[2], "s", 8),
    "GELU": (COLOURS[3], "o", 3),
    "SiLU": (COLOURS[4], "o", 3),
    "ReLU": (COLOURS[5], "x", 5),
}


def covariance_ellipses(kappas: Sequence[float], samples: Sequence[Array]) -> Figure:
    """Outputs Y (N, 2) of units with the same norm, one panel a κ, with their 2σ ellipse."""
    figure, axes = new_figure(
        1, len(kappas), figsize=(2.4 * len(kappas), 2.8), sharex=True, sharey=True, squeeze=False
    )
    for axis, kappa, points in zip(axes[0], kappas, samples, strict=True):
        variances, directions = np.linalg.eigh(np.cov(points.T))
        angle = np.degrees(np.arctan2(directions[1, -1], directions[0, -1]))
        width, height = 4 * np.sqrt(variances[::-1])
        axis.plot(*points.T, ".", color=COLOURS[5], ms=2, alpha=0.4, rasterized=True)
        outline = {"fill": False, "color": COLOURS[1], "lw": 2, "zorder": 3}
        axis.add_patch(Ellipse((0, 0), width, height, angle=angle, **outline))
        axis.set(title=f"κ = {kappa:g}", xlabel="$y_1$", aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
    axes[0][0].set_ylabel("$y_2$")
    return figure


def simplex(paths: Sequence[Array], energy: float) -> Figure:
    """Log-volume over all spectra of three singular values with Σσᵢ² = C, and ascents on it.

    A path is the spectra on the way of an ascent, (steps + 1, 3); ``energy`` is C.
    """
    figure, axis = new_figure(figsize=(5.2, 4.2))
    first, second = (part.ravel() for part in np.meshgrid(*[np.linspace(0, 1, 161)] * 2))
    third = 1 - first - second
    inside = third > -1e-12
    t = energy * np.clip(np.stack([first, second, third], axis=1)[inside], 1e-5, None)
    volume = 0.5 * np.log(t).sum(axis=1)
    levels = volume.max() - np.array([3, 2.5, 2, 1.5, 1, 0.75, 0.5, 0.25, 0.1, 0])
    filled = axis.tricontourf(*_corners(t), volume, levels=levels, cmap="Blues", extend="min")
    bar = figure.colorbar(filled, ax=axis, label="log-volume V below its maximum (nats)")
    bar.set_ticks(levels, labels=[f"{level - volume.max():.4g}" for level in levels])
    for path in paths:
        x, y = _corners(path**2)
        axis.plot(x, y, "-", color=COLOURS[1], lw=1.5)
        axis.plot(x[0], y[0], "o", color=COLOURS[1], ms=4)
    axis.plot(*_corners(np.full((1, 3), energy / 3)), "*", color="black", ms=11)
    for text, x, y in [("$t_1$", 0, 0), ("$t_2$", 1, 0), ("$t_3$", 0.5, 0.75**0.5)]:
        side, lift = ("bottom", 5) if y else ("top", -5)
        offset = {"xytext": (0, lift), "textcoords": "offset points"}
        axis.annotate(f"all in {text}", (x, y), ha="center", va=side, **offset)
    axis.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.0), aspect="equal")
    axis.annotate("κ = 1", (0.5, 3**-0.5 / 2), (9, 3), textcoords="offset points", color="white")
    axis.axis("off")
    return figure


def _corners(t: Array) -> tuple[Array, Array]:
    """Barycentric coordinates, shape (N, 3), to the plane: an equilateral triangle of side 1."""
    share = t / t.sum(axis=1, keepdims=True)
    return share[:, 1] + share[:, 2] / 2, share[:, 2] * 3**0.5 / 2


def entropy_at_fixed_norm(kappas: Array, entropies: Array, largest: float) -> Figure:
    """Entropy h(Y) in nats of random units of one norm against their κ; Theorem 1's maximum."""
    figure, axis = new_figure(figsize=(5.6, 3.4))
    axis.semilogx(kappas, entropies, ".", color=COLOURS[0], alpha=0.4, label="random W, one norm")
    axis.lines[0].set_rasterized(True)
    axis.axhline(largest, color=COLOURS[1], label="Theorem 1: (k/2) log(2πe σₓ² C/k)")
    axis.plot(1, largest, "*", color="black", ms=11, label="κ = 1")
    axis.set(xlabel="condition number κ", ylabel="output entropy h(Y) (nats)")
    axis.legend(loc="lower left")
    return figure


def bands(
    kappas: Array, dot_kappas: Array, panels: Mapping[str, tuple[Array, Array, Array]]
) -> Figure:
    """Quantities against κ at a fixed norm: the attainable band, and random spectra as dots.

    Args:
        kappas: where the bands are given, shape (K,).
        dot_kappas: κ of the random spectra, shape (N,).
        panels: title → ends of the band at ``kappas``, low and high, and the dots, in nats.
    """
    figure, axes = new_figure(1, len(panels), figsize=(2.9 * len(panels), 3.2))
    for axis, (title, (low, high, dots)) in zip(axes, panels.items(), strict=True):
        axis.fill_between(kappas, low, high, color=COLOURS[5], alpha=0.4, lw=0)
        axis.plot(kappas, high, color=COLOURS[0], lw=1.5)
        axis.plot(kappas, low, color=COLOURS[0], lw=1.5)
        axis.plot(dot_kappas, dots, ".", color=COLOURS[1], ms=3, alpha=0.6)
        axis.plot(1, high[0], "*", color="black", ms=10, clip_on=False)
        axis.set(title=title, xlabel="condition number κ", xscale="log")
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
        slopes: name → |φ'|, shape (P,).
        means: means of the Gaussian input, shape (M,).
        changes: name → E log|φ'(Y)| in nats, shape (M,).
        estimates: name → h(φ(Y)) - h(Y) by nearest neighbours at every second mean.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(9.5, 3.6))
    for name in slopes:
        colour = ACTIVATIONS[name][0]
        left.plot(inputs, slopes[name], color=colour, label=name)
        if name in changes:
            right.plot(means, changes[name], color=colour)
            right.plot(means[::2], estimates[name], "o", color=colour, ms=4)
    left.axhline(1, color="black", lw=1, ls="--")
    left.set(title="slope; contractive below the dashes", xlabel="input y", ylabel="|φ′(y)|")
    left.set_ylim(-0.05, 1.6)
    left.legend(ncols=3, fontsize=8, loc="upper left")
    right.axhline(0, color="black", lw=1, ls="--")
    right.set(title="entropy added (dots: from samples)", xlabel="mean of the input (bias)")
    right.set(ylabel="h(φ(Y)) − h(Y) (nats)", ylim=(-3, 0.4))
    return figure


def information_changes(panels: Mapping[str, tuple[Array, Mapping[str, Array]]]) -> Figure:
    """I(Y; φ(Y) + N) - I(Y; Y + N) against the noise, a panel for each kind of input.

    ``panels`` are title → (noise standard deviations, name of φ → change in nats).
    """
    size = (4.6 * len(panels), 3.3)
    figure, axes = new_figure(1, len(panels), figsize=size, sharex=True, squeeze=False)
    for axis, (title, (noises, changes)) in zip(axes[0], panels.items(), strict=True):
        axis.axhline(0, color="black", lw=0.8, ls="--", zorder=1)
        for name, change in changes.items():
            colour, marker, size = ACTIVATIONS[name]
            own = {"color": colour, "marker": marker, "ms": size, "markerfacecolor": "none"}
            axis.semilogx(noises, change, label=name, **own)
        axis.set(title=title, xlabel="noise standard deviation σₙ")
    axes[0][0].set_ylabel("information gained by φ (nats)")
    axes[0][0].legend(fontsize=8)
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
        curves: label → null κ at ``aspects``, shape (A,).
        sampled: β → κ of random matrices of that aspect, shape (N,).
        marks: label → (β, null κ) of a model's tensors.
    """
    figure, axis = new_figure(figsize=(6.4, 4.2))
    for colour, (label, curve) in zip(COLOURS[1:], curves.items(), strict=False):
        axis.semilogy(aspects, curve, color=colour, label=label)
    for i, (aspect, kappas) in enumerate(sampled.items()):
        label = "random matrices" if i == 0 else None
        axis.plot(np.full(len(kappas), aspect), kappas, ".", color=COLOURS[0], label=label)
    offsets = [(-4, 26), (6, -24), (14, 14), (-10, 8)]
    for (label, point), offset in zip(marks.items(), offsets, strict=False):
        axis.plot(*point, "D", color="black", ms=6, zorder=4)
        side = "right" if offset[0] < -5 else "left"
        line = {"arrowstyle": "-", "color": "grey"}
        axis.annotate(label, point, offset, textcoords="offset points", ha=side, arrowprops=line)
    axis.set(xlabel="aspect ratio β = shorter side / longer side", ylabel="κ of untrained weights")
    axis.legend(loc="upper left")
    return figure


def rounded_spectra(
    spectra: Mapping[str, Array], kappas: Array, reads: Mapping[str, Array], size: int
) -> Figure:
    """Spectra as stored, and κ as read from storage against the true κ.

    Args:
        spectra: storage → singular values of one matrix, descending, shape (n,).
        kappas: true κ, shape (K,).
        reads: storage → κ of the stored matrix, shape (seeds, K).
        size: n, for the title.
    """
    figure, (left, right) = new_figure(1, 2, figsize=(9.5, 3.6))
    for colour, (label, s) in zip(["black", *COLOURS[1:]], spectra.items(), strict=False):
        style, order = ("--", 3) if colour == "black" else ("-", 2)
        left.semilogy(np.arange(1, len(s) + 1), s, style, color=colour, label=label, zorder=order)
    for colour, (label, read) in zip(COLOURS, reads.items(), strict=False):
        right.loglog(kappas, np.median(read, axis=0), "o-", color=colour, label=label, ms=4)
        right.fill_between(kappas, read.min(axis=0), read.max(axis=0), color=colour, alpha=0.2)
    right.loglog(kappas, kappas, "--", color="black", lw=1)
    left.set(title=f"one {size}×{size} matrix", xlabel="index i", ylabel="singular value σᵢ")
    left.legend(fontsize=8)
    right.set(title="median and range over seeds", xlabel="true κ", ylabel="κ read from storage")
    right.legend(fontsize=8)
    return figure
