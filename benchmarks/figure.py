"""Figure of the benchmark: seconds of each route for a layer, and error of each."""

from typing import Any

from matplotlib.figure import Figure

from kappa_lib.figures.style import COLOURS, new_figure


def layer(report: dict[str, Any]) -> Figure:
    """Time for the matrices of one layer, stacked by kind, and the largest relative error.

    Args:
        report: what :func:`benchmarks.bench.run` returns.
    """
    mix = report["layer"]
    names = list(mix["seconds"])
    figure, (left, right) = new_figure(1, 2, figsize=(10, 3.2), sharey=True, width_ratios=[3, 2])
    start = [0.0] * len(names)
    for colour, (module, part) in zip(COLOURS, mix["parts"].items(), strict=False):
        times = mix["counted"][module]
        seconds = [times * part["routes"][name]["seconds"] for name in names]
        rows, cols = part["shape"]
        left.barh(names, seconds, left=start, color=colour, label=f"{times} × {rows}×{cols}")
        start = [a + b for a, b in zip(start, seconds, strict=True)]
    for place, total in enumerate(start):
        left.text(total, place, f" {total:.3g} s", va="center", fontsize=9)
    left.set(xlabel="seconds for a layer's seven matrices")
    left.margins(x=0.12)
    left.invert_yaxis()
    left.legend(fontsize=8)
    errors = [max(part["routes"][n]["error"] for part in mix["parts"].values()) for n in names]
    right.plot([max(error, 1e-17) for error in errors], range(len(names)), "o", color="black")
    right.axvline(1e-6, color=COLOURS[1], ls="--", lw=1, label="goal")
    right.set(xscale="log", xlabel="largest relative error of κ")
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(axis="y", visible=False)
    return figure
