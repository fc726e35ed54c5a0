"""Figures of the runs: word error rate, learning and forgetting; pairs of arms; verdicts.

A ``table`` has the evaluations of :class:`kappa_lib.evidence.runs.Runs`; a ``note`` stands under
the figure, for instance that a corpus is missing.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kappa_lib.figures import style
from kappa_lib.figures.style import COLOURS, arm_colours, logarithmic, new_figure

TITLES = {
    "wer_mean": "mean of German and English\n(as in the paper's Figure 1)",
    "wer_de": "German, synthetic",
    "wer_en": "English, synthetic",
    "wer_de_open": "German, open sentences",
    "wer_en_open": "English, open sentences",
    "wer_en_human": "English, human",
    "wer_en_actors": "English, actors\n(other speakers than in training)",
    "wer_librispeech": "English, LibriSpeech test-clean",
    "wer_mls_german": "German, MLS test",
    "text_loss": "general-text loss",
    "kl": "KL from the base model",
    "heldout_loss": "held-out transcript loss",
}
TEXTS = {"english": "English prose", "german": "German", "technical": "technical (English)"}
OUTCOMES = {
    "wer": "word error rate (points)",
    "text": "general-text loss\n(nats per token)",
    "kl": "KL from the base model\n(nats per token)",
}
SHADES = {
    "holds": COLOURS[2],
    "holds with a correction": COLOURS[5],
    "fails": COLOURS[1],
    "no relevant difference": COLOURS[0],
    "undecided": "#c9c9c9",
    "confounded": COLOURS[4],
    "not testable here": "#999999",
    "not measured": "#e6e6e6",
}
CAPTION = {"fontsize": 8, "color": "#555555"}
LOWEST = 0.5  # per cent: what lies below, no error at all for instance, is drawn at this edge
NARROW = 8  # differences beyond so many margins space the axis by square roots


def _curves(axis: Axes, table: pd.DataFrame, column: str, whiskers: pd.DataFrame | None) -> None:
    """Mean over seeds against utterances seen, a colour per arm; error rates in per cent.

    Whiskers are given by ``arm``, ``step``, ``column``, ``low``, ``high``, or reach over the seeds.
    """
    colours, whole = arm_colours(table["arm"]), table["utterances"].max()
    scale, floor = (100, LOWEST) if column.startswith("wer_") else (1, -np.inf)
    for place, (arm, colour) in enumerate(colours.items()):
        rows = table[table["arm"] == arm]
        found = rows.groupby(["step", "utterances"])[column].agg(["mean", "min", "max"])
        shown = found.reset_index().set_index("step")
        if whiskers is not None:
            known = whiskers[(whiskers["arm"] == arm) & (whiskers["column"] == column)]
            known = known.set_index("step")
            shown[["min", "max"]] = known[["low", "high"]].reindex(shown.index)
        x, beside = shown["utterances"], 0.012 * whole * (place - (len(colours) - 1) / 2)
        mean, low, high = ((scale * shown[c]).clip(floor) for c in ("mean", "min", "max"))
        axis.plot(x, mean, "o-", ms=3, lw=1.4, color=colour, label=arm.replace("_", " "))
        axis.vlines(x + beside, low, high, color=colour, lw=1.4, alpha=0.5)


def _over_training(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    heading: str,
    note: str,
    size: tuple[int, float],
    whiskers: pd.DataFrame | None = None,
) -> Figure:
    """A panel per column of the evaluations (→ title); ``size`` is how many stand side by side, and
    the height of one. What falls by orders of magnitude has logarithmic axes."""
    across, rows = size[0], -(-len(titles) // size[0])
    inches = (2.7 + 3.2 * across, size[1] * rows + 0.5)
    figure, axes = new_figure(rows, across, figsize=inches, squeeze=False)
    for spare in axes.flat[len(titles) :]:
        spare.remove()
    used = axes.flat[: len(titles)]
    for axis, (column, title) in zip(used, titles.items(), strict=True):
        _curves(axis, table, column, whiskers)
        axis.set_title(title, fontsize=10)
        if column.startswith(("wer_", "heldout_")):
            logarithmic(axis, "y")
    for axis in axes[:, 0]:
        axis.set_ylabel("word error rate (%)" if "wer_mean" in titles else "nats per token")
    for axis in used[-across:]:
        axis.set_xlabel("training utterances")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside center right")
    seeds = table["seed"].nunique()
    points = "one seed" if whiskers is None else "one seed; whiskers: 95 % over utterances"
    if seeds > 1:
        points = f"points: mean of {seeds} seeds; whiskers: lowest to highest"
    figure.suptitle(f"{heading}\n({points})", fontsize=11)
    figure.supxlabel(note, **CAPTION)
    return figure


def wer_over_training(
    table: pd.DataFrame, note: str = "", intervals: pd.DataFrame | None = None
) -> Figure:
    """Word error rate against utterances seen, on a logarithmic axis, a panel per test set.

    ``intervals``, of :attr:`kappa_lib.evidence.runs.Runs.wer_intervals`, are a single seed's.
    """
    found = [c for c in table if c.startswith("wer_")]
    own = {c: f"{c.removeprefix('wer_')}, own recordings" for c in found if c not in TITLES}
    titles = TITLES | own | ({"wer_mean": "mean of the test sets"} if own else {})
    titles = {column: title for column, title in titles.items() if column in found}
    whiskers = intervals if table["seed"].nunique() == 1 else None
    return _over_training(table, titles, "Word error rate over training", note, (2, 2.6), whiskers)


def forgetting_over_training(table: pd.DataFrame, note: str = "") -> Figure:
    """General-text loss, KL from the base model and held-out loss against utterances seen."""
    titles = {column: TITLES[column] for column in ("text_loss", "kl", "heldout_loss")}
    heading = "What was forgotten (above) and learned (last)"
    return _over_training(table, titles, heading, note, (1, 2.0))


def forgetting_by_text(table: pd.DataFrame, note: str = "") -> Figure:
    """Rise of the loss and KL from the base model over training, a row per kind of text."""
    kinds = [kind for kind in TEXTS if f"text_{kind}" in table]
    losses = [f"text_{kind}" for kind in kinds]
    start = table.sort_values("step").groupby(["arm", "seed"])[losses].transform("first")
    titles = {}
    for kind in kinds:
        titles[f"text_{kind}"] = f"{TEXTS[kind]}: rise of the loss"
        titles[f"kl_{kind}"] = f"{TEXTS[kind]}: KL from base"
    risen = table.assign(**(table[losses] - start))
    return _over_training(risen, titles, "What was forgotten of each text", note, (2, 2.1))


def learning_and_forgetting(
    table: pd.DataFrame,
    panels: Mapping[str, Mapping[str, str]] | None = None,
    note: str = "",
    cost: str = "kl",
) -> Figure:
    """Paths over training: held-out loss across (learning to the right), forgetting up.

    Arms are fairly compared at equal held-out loss. A thin line per seed, a thick one for their
    mean, which is taken where all seeds are. ``panels`` are title → arm → what the legend calls it,
    up to four arms; by default all are in one. ``cost`` is ``kl`` or ``text_loss``.
    """
    colours = arm_colours(table["arm"])
    size = (1.5 + 3.2 * len(panels), 4) if panels else (7.5, 3.8)
    panels = panels or {"": {arm: arm.replace("_", " ") for arm in colours}}
    same = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = new_figure(1, len(panels), figsize=size, **same)
    for axis, (title, labels) in zip(axes[0], panels.items(), strict=True):
        if title:
            colours = dict(zip(labels, (COLOURS[i] for i in (0, 4, 1, 2)), strict=False))
        for arm, label in labels.items():
            rows = table[table["arm"] == arm]
            if len(rows):
                _paths(axis, rows, cost, colours[arm], f"{label} (n = {rows['seed'].nunique()})")
        axis.set(title=title, xlabel="held-out loss, nats per token (learning →)", ymargin=0.15)
        axis.legend(loc="upper left")
    axes[0, 0].set_ylabel(f"{TITLES[cost]},\nnats per token (forgetting ↑)")
    if table["heldout_loss"].max() > 3 * table["heldout_loss"].min():
        logarithmic(axes[0, 0], "x")
    axes[0, 0].invert_xaxis()
    figure.supxlabel(note, **CAPTION)
    return figure


def _paths(axis: Axes, rows: pd.DataFrame, cost: str, colour: str, label: str) -> None:
    for _, run in rows.groupby("seed"):
        axis.plot(run["heldout_loss"], run[cost], "-", color=colour, lw=0.6, alpha=0.35)
    # Of the first, second … evaluation of each seed: a loss is not reached at the same step.
    number = rows.sort_values("step").groupby("seed").cumcount()
    each = rows.groupby(number)[["heldout_loss", cost]]
    mean = each.mean()[each.size() == rows["seed"].nunique()]
    axis.plot(mean["heldout_loss"], mean[cost], "o-", color=colour, ms=4, lw=2, label=label)


def paired(
    found: pd.DataFrame, summary: pd.DataFrame, margins: Mapping[str, float], note: str = ""
) -> Figure:
    """A row per pair, a panel per outcome: left of zero the first arm of the pair did better.

    Dots are of :func:`kappa_lib.evidence.compare.seed_by_seed`, means and intervals of
    :func:`kappa_lib.evidence.compare.comparisons`; ``margins`` (outcome → smallest difference that
    matters) are shaded. Where differences are many times that, axes are spaced by square roots.
    """
    names = list(dict.fromkeys(found["pair"]))
    size = (10.5, 1.6 + 0.4 * len(names))
    figure, axes = new_figure(1, len(margins), figsize=size, sharey=True, squeeze=False)
    margin_of = (f"±{margin:g}" for margin in margins.values())
    said = [f"shaded: differences that would not matter ({', '.join(margin_of)})"]
    for axis, (outcome, margin) in zip(axes[0], margins.items(), strict=True):
        points = found[found["outcome"] == outcome]
        known = summary[summary["outcome"] == outcome].set_index("pair").reindex(names)
        axis.axvspan(-margin, margin, color="black", alpha=0.08, lw=0)
        axis.axvline(0, color="black", lw=0.8)
        heights = points["pair"].map(names.index) - 0.15
        axis.plot(points["difference"], heights, "o", ms=4, alpha=0.6)
        bars = known[["mean", "low", "high"]].to_numpy()
        rows = (name.replace("_", " ") for name in names)
        style.intervals(axis, dict(zip(rows, bars, strict=True)), COLOURS[1], 0.15)
        reach = pd.concat([points["difference"], known["low"], known["high"]]).abs().max()
        widest = 1.15 * max(0.0 if pd.isna(reach) else reach, margin)
        axis.set(title=OUTCOMES.get(outcome, outcome), xlim=(-widest, widest))
        if widest > NARROW * margin:
            style.signed_root(axis, margin)
            said[1:] = ["axes are spaced by square roots where differences are many times that"]
        else:
            axis.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    seeds = found.groupby("pair")["seed"].nunique()
    number = f"{seeds.min()} seeds" if seeds.nunique() == 1 else "seeds"
    spread = "one seed" if seeds.max() == 1 else f"{number}: blue; mean and 95 % interval: orange"
    figure.suptitle(f"First arm minus second ({spread}); left of zero the first is better")
    figure.supxlabel("; ".join([*said, note] if note else said), **CAPTION)
    return figure


def verdicts(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Stacked bars, one per group of claims: group → verdict → number of claims."""
    figure, axis = new_figure(figsize=(7.5, 0.45 * len(counts) + 1.3))
    bars = pd.DataFrame(counts).T.reindex(columns=list(SHADES)).fillna(0)
    bars = bars.loc[:, bars.any()]
    bars.plot.barh(stacked=True, ax=axis, color=SHADES, width=0.8, legend=False)
    for drawn in axis.containers:
        axis.bar_label(drawn, fmt=lambda n: f"{n:.0f}" if n else "", label_type="center")
    axis.invert_yaxis()
    axis.grid(False)
    axis.set_xlabel("number of claims")
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle("What became of the paper's claims")
    return figure
