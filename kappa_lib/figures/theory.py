"""Two figures of the theory notebooks that take more than a cell: ellipses and the simplex."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kappa_lib.figures.style import COLOURS, new_figure

Array = NDArray[np.float64]


def covariance_ellipses(kappas: Sequence[float], samples: Sequence[Array]) -> Figure:
    """Outputs Y (N, 2) of units with the same norm, one panel per κ, with their 2σ ellipse."""
    figure, axes = new_figure(
        1, len(kappas), figsize=(2.4 * len(kappas), 2.8), sharex=True, sharey=True, squeeze=False
    )
    turns = np.linspace(0, 2 * np.pi, 201)
    circle = np.stack([np.cos(turns), np.sin(turns)])
    for axis, kappa, points in zip(axes[0], kappas, samples, strict=True):
        axis.plot(*points.T, ".", color=COLOURS[5], ms=2, alpha=0.4, rasterized=True)
        ellipse = 2 * np.linalg.cholesky(np.cov(points.T)) @ circle
        axis.plot(*ellipse, color=COLOURS[1], lw=2)
        axis.set(
            title=f"κ = {kappa:g}", xlabel="output y₁", aspect="equal", xlim=(-4, 4), ylim=(-4, 4)
        )
    axes[0][0].set_ylabel("output y₂")
    figure.suptitle("Outputs of four units of the same norm, with their 2σ ellipse")
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
    figure.suptitle("Log-volume over all spectra of one norm, and ascents on it")
    return figure


def _corners(t: Array) -> tuple[Array, Array]:
    """Barycentric coordinates, shape (N, 3), to the plane: an equilateral triangle of side 1."""
    share = t / t.sum(axis=1, keepdims=True)
    return share[:, 1] + share[:, 2] / 2, share[:, 2] * 3**0.5 / 2
