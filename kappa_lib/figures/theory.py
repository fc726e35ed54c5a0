"""Figures of the first theory notebook: ellipses, the simplex, entropy at a fixed norm."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from kappa_lib.figures.style import COLOURS, new_figure

Array = NDArray[np.float64]


def covariance_ellipses(kappas: Sequence[float], samples: Sequence[Array]) -> Figure:
    """Outputs Y of 2-D units with the same norm, one panel a κ, with their 2σ ellipse.

    Args:
        kappas: κ of each unit.
        samples: outputs of each unit, shape (N, 2).
    """
    figure, axes = new_figure(
        1, len(kappas), figsize=(2.4 * len(kappas), 2.8), sharex=True, sharey=True
    )
    for axis, kappa, points in zip(np.atleast_1d(axes), kappas, samples, strict=True):
        variances, directions = np.linalg.eigh(np.cov(points.T))
        angle = np.degrees(np.arctan2(directions[1, -1], directions[0, -1]))
        width, height = 4 * np.sqrt(variances[::-1])
        axis.plot(*points.T, ".", color=COLOURS[5], markersize=2, alpha=0.4)
        axis.add_patch(
            Ellipse(
                (0, 0), width, height, angle=angle, fill=False, color=COLOURS[1], lw=2, zorder=3
            )
        )
        axis.set(title=f"κ = {kappa:g}", xlabel="$y_1$", aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
    np.atleast_1d(axes)[0].set_ylabel("$y_2$")
    return figure


def simplex(paths: Sequence[Array], energy: float) -> Figure:
    """Log-volume over all spectra of three singular values with Σσᵢ² = C, and ascents on it.

    Args:
        paths: spectra on the way of each ascent, shape (steps + 1, 3).
        energy: C.
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
        axis.plot(x[0], y[0], "o", color=COLOURS[1], markersize=4)
    axis.plot(*_corners(np.full((1, 3), energy / 3)), "*", color="black", markersize=11)
    labels = [("all in $t_1$", 0, 0, "top"), ("all in $t_2$", 1, 0, "top")]
    for text, x, y, side in [*labels, ("all in $t_3$", 0.5, 3**0.5 / 2, "bottom")]:
        axis.annotate(
            text, (x, y), (0, -5 if side == "top" else 5), textcoords="offset points",
            ha="center", va=side,
        )  # fmt: skip
    axis.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.0), aspect="equal")
    axis.annotate("κ = 1", (0.5, 3**-0.5 / 2), (9, 3), textcoords="offset points", color="white")
    axis.axis("off")
    return figure


def _corners(t: Array) -> tuple[Array, Array]:
    """Barycentric coordinates, shape (N, 3), to the plane: an equilateral triangle of side 1."""
    share = t / t.sum(axis=1, keepdims=True)
    return share[:, 1] + share[:, 2] / 2, share[:, 2] * 3**0.5 / 2


def entropy_at_fixed_norm(kappas: Array, entropies: Array, largest: float) -> Figure:
    """Entropy of random units of one norm against their κ, with Theorem 1's maximum.

    Args:
        kappas: shape (N,).
        entropies: h(Y) in nats, shape (N,).
        largest: Theorem 1's value, in nats.
    """
    figure, axis = new_figure(figsize=(5.6, 3.4))
    axis.semilogx(kappas, entropies, ".", color=COLOURS[0], alpha=0.4, label="random W, one norm")
    axis.axhline(largest, color=COLOURS[1], label="Theorem 1: (k/2) log(2πe σₓ² C/k)")
    axis.plot(1, largest, "*", color="black", markersize=11, label="κ = 1")
    axis.set(xlabel="condition number κ", ylabel="output entropy h(Y) (nats)")
    axis.legend(loc="lower left")
    return figure
