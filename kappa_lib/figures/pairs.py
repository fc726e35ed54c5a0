"""Paired differences between arms, a point a seed."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kappa_lib.figures.style import COLOURS, new_figure

TITLES = {
    "wer": "word error rate, last evaluation\n(points)",
    "text": "general-text loss, last evaluation\n(nats a token)",
    "text_at_equal": "general-text loss at equal\nheld-out loss (nats a token)",
}


def paired(found: pd.DataFrame, note: str = "") -> Figure:
    """A row a pair, a panel an outcome: left of zero the first arm of the pair did better.

    Args:
        found: of :func:`kappa_lib.evidence.pairs.outcomes`.
        note: said under the figure.
    """
    names = list(dict.fromkeys(found["pair"]))
    places = {name: len(names) - i for i, name in enumerate(names)}
    figure, axes = new_figure(
        1, len(TITLES), figsize=(10.5, 1.6 + 0.5 * len(names)), sharey=True, squeeze=False
    )
    for axis, (column, title) in zip(axes[0], TITLES.items(), strict=True):
        for name, rows in found.groupby("pair"):
            height = places[name]
            axis.plot(rows[column], [height] * len(rows), "o", ms=5, alpha=0.6, color=COLOURS[0])
            axis.plot(rows[column].mean(), height, "|", ms=18, mew=2.5, color=COLOURS[1])
        axis.axvline(0, color=COLOURS[-1], lw=1)
        widest = 1.15 * max(found[column].abs().fillna(0.0).max(), 1e-9)
        axis.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        axis.set(title=title, xlim=(-widest, widest), ylim=(0.4, len(names) + 0.6))
    axes[0][0].set_yticks(list(places.values()), list(places))
    seeds = found["seed"].nunique()
    spread = "one seed" if seeds == 1 else f"{seeds} seeds: points, mean: bar"
    figure.suptitle(f"First arm less second, by seed ({spread}); left of zero the first is better")
    if note:
        figure.supxlabel(note, fontsize=8, color=COLOURS[1])
    return figure
