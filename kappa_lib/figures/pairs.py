"""Paired differences between arms: a point a seed, and the interval that decides."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kappa_lib.figures.style import COLOURS, new_figure

TITLES = {
    "wer": "word error rate (points)",
    "text": "general-text loss\n(nats a token)",
    "kl": "KL from the base model\n(nats a token)",
}


def paired(
    found: pd.DataFrame, summary: pd.DataFrame, margins: Mapping[str, float], note: str = ""
) -> Figure:
    """A row a pair, a panel an outcome: left of zero the first arm of the pair did better.

    Args:
        found: of :func:`kappa_lib.evidence.pairs.outcomes`.
        summary: of :func:`kappa_lib.evidence.pairs.summary`; its intervals are drawn.
        margins: outcome → smallest difference that matters, shaded; a panel each.
        note: said under the figure.
    """
    names = list(dict.fromkeys(found["pair"]))
    places = {name: len(names) - i for i, name in enumerate(names)}
    height = 1.6 + 0.5 * len(names)
    figure, axes = new_figure(1, len(margins), figsize=(10.5, height), sharey=True, squeeze=False)
    for axis, (outcome, margin) in zip(axes[0], margins.items(), strict=True):
        points = found[found["outcome"] == outcome]
        known = summary[summary["outcome"] == outcome]
        axis.axvspan(-margin, margin, color=COLOURS[-1], alpha=0.08, lw=0)
        axis.axvline(0, color=COLOURS[-1], lw=1)
        heights = points["pair"].map(places)
        axis.plot(points["difference"], heights, "o", ms=5, alpha=0.6, color=COLOURS[0])
        for row in known.itertuples():
            axis.plot([row.low, row.high], [places[row.pair]] * 2, lw=2, color=COLOURS[1])
            axis.plot(row.mean, places[row.pair], "|", ms=18, mew=2.5, color=COLOURS[1])
        reach = pd.concat([points["difference"], known["low"], known["high"]]).abs().max()
        widest = 1.15 * max(0.0 if pd.isna(reach) else reach, margin)
        axis.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        title = TITLES.get(outcome, outcome)
        axis.set(title=title, xlim=(-widest, widest), ylim=(0.4, len(names) + 0.6))
    axes[0][0].set_yticks(list(places.values()), list(places))
    seeds = found["seed"].nunique()
    spread = "one seed" if seeds == 1 else f"{seeds} seeds: points; mean and 95 % interval: bars"
    figure.suptitle(f"First arm less second ({spread}); left of zero the first is better")
    told = "shaded: differences that would not matter"
    figure.supxlabel("; ".join(t for t in (told, note) if t), fontsize=8, color=COLOURS[1])
    return figure
