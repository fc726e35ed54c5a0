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

from kappa_lib.figures.style import (
    COLOURS,
    arm_colours,
    intervals,
    logarithmic,
    new_figure,
    signed_root,
)

TITLES = {
    "wer_mean": "mean of German and English\n(as in the paper's Figure 1)",
    "wer_de": "German, synthetic",
    "wer_en": "English, synthetic",
    "wer_de_open": "German, open sentences",
    "wer_en_open": "English, open sentences",
    "wer_en_human": "English, human\n(no human speech in training)",
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


def _curves(
    axis: Axes,
    table: pd.DataFrame,
    column: str,
    scale: float = 1.0,
    log: bool = False,
    whiskers: pd.DataFrame | None = None,
) -> None:
    """Mean over seeds against utterances seen, a colour per arm.

    ``whiskers`` are rows ``arm``, ``step``, ``column``, ``low``, ``high``; else they reach from the
    lowest to the highest seed. They stand a little beside one another.
    """
    colours = arm_colours(table["arm"])
    whole = table["utterances"].max()
    floor = LOWEST if scale == 100 else -np.inf
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
    if log:
        logarithmic(axis, "y")


def _finish(figure: Figure, table: pd.DataFrame, title: str, note: str, whiskers: str = "") -> None:
    """Legend, heading with what the points and whiskers are, and the caption."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside center right")
    seeds = table["seed"].nunique()
    if not whiskers:
        whiskers = "" if seeds == 1 else "; whiskers: lowest to highest"
    points = "one seed" if seeds == 1 else f"points: mean of {seeds} seeds"
    figure.suptitle(f"{title}\n({points}{whiskers})", fontsize=11)
    figure.supxlabel(note, **CAPTION)


def _grid(panels: int, columns: int, height: float, label: str) -> tuple[Figure, list[Axes]]:
    """Axes over training in one or two columns, that half a page's width still shows legibly."""
    rows = -(-panels // columns)
    size = (2.7 + 3.2 * columns, height * rows + 0.5)
    figure, axes = new_figure(rows, columns, figsize=size, squeeze=False)
    for spare in axes.flat[panels:]:
        spare.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    used = list(axes.flat[:panels])
    for axis in used[-columns:]:
        axis.set_xlabel("training utterances")
    return figure, used


def wer_over_training(
    table: pd.DataFrame,
    human_trained: bool = False,
    note: str = "",
    intervals: pd.DataFrame | None = None,
) -> Figure:
    """Word error rate against utterances seen, on a logarithmic axis, a panel per test set.

    ``human_trained``: prompts of the voice of ``en_human`` were trained on. ``intervals``, of
    :attr:`kappa_lib.evidence.runs.Runs.wer_intervals`, are drawn as whiskers; with several seeds
    they must cover every evaluation, or else the seeds' spread is drawn.
    """
    found = [c for c in table if c.startswith("wer_")]
    own = {c: f"{c.removeprefix('wer_')}, own recordings" for c in found if c not in TITLES}
    titles = TITLES | own | ({"wer_mean": "mean of the test sets"} if own else {})
    if human_trained:
        titles["wer_en_human"] = titles["wer_en_human"].splitlines()[0]
    columns = [c for c in titles if c in found]
    figure, axes = _grid(len(columns), 2, 2.6, "word error rate (%)")
    if intervals is not None:
        covered = len(intervals.drop_duplicates(["arm", "step"]))
        complete = covered == len(table.drop_duplicates(["arm", "step"]))
        intervals = intervals if covered and (complete or table["seed"].nunique() == 1) else None
    for axis, column in zip(axes, columns, strict=True):
        _curves(axis, table, column, 100, log=True, whiskers=intervals)
        axis.set_title(titles[column], fontsize=10)
    over = "utterances" if table["seed"].nunique() == 1 else "utterances and seeds"
    whiskers = "" if intervals is None else f"; whiskers: 95 % over {over}"
    _finish(figure, table, "Word error rate over training", note, whiskers)
    return figure


def forgetting_over_training(table: pd.DataFrame, note: str = "") -> Figure:
    """General-text loss, KL from the base model and held-out loss against utterances seen."""
    columns = ("text_loss", "kl", "heldout_loss")
    figure, axes = _grid(len(columns), 1, 2.0, "nats per token")
    for axis, column in zip(axes, columns, strict=True):
        _curves(axis, table, column, log=column == "heldout_loss")
        axis.set_title(TITLES[column], fontsize=10)
    _finish(figure, table, "What was forgotten (above) and learned (last)", note)
    return figure


def forgetting_by_text(table: pd.DataFrame, note: str = "") -> Figure:
    """Rise of the loss and KL from the base model over training, a row per kind of text."""
    kinds = [kind for kind in TEXTS if f"text_{kind}" in table]
    losses = [f"text_{kind}" for kind in kinds]
    start = table.sort_values("step").groupby(["arm", "seed"])[losses].transform("first")
    table = table.assign(**(table[losses] - start))
    figure, axes = _grid(2 * len(kinds), 2, 2.1, "nats per token")
    for kind, left, right in zip(kinds, axes[::2], axes[1::2], strict=True):
        _curves(left, table, f"text_{kind}")
        _curves(right, table, f"kl_{kind}")
        left.set_title(f"{TEXTS[kind]}: rise of the loss", fontsize=10)
        right.set_title(f"{TEXTS[kind]}: KL from base", fontsize=10)
    _finish(figure, table, "What was forgotten of each text", note)
    return figure


def learning_against_forgetting(table: pd.DataFrame, note: str = "") -> Figure:
    """Each run's path: what it learned (held-out loss) against what it forgot (text loss).

    Lower and further right is better; arms are fairly compared at equal held-out loss.
    """
    figure, axis = new_figure(figsize=(7.5, 3.8))
    colours = arm_colours(table["arm"])
    for (arm, _), rows in table.groupby(["arm", "seed"], sort=False):
        learned, lost = rows["heldout_loss"], rows["text_loss"]
        axis.plot(learned, lost, "o-", ms=3, lw=1.2, color=colours[arm], alpha=0.8)
        axis.plot(learned.iloc[-1], lost.iloc[-1], "s", ms=7, color=colours[arm])
    for arm, colour in colours.items():
        axis.plot([], [], color=colour, label=arm.replace("_", " "))
    figure.legend(loc="outside center right")
    of = "loss (nats per token)"
    axis.set(xlabel=f"held-out transcript {of}", ylabel=f"general-text {of}")
    logarithmic(axis, "x")
    axis.invert_xaxis()
    title = "Learning (to the right) against forgetting (upwards); squares: last step"
    axis.set_title(title, fontsize=10)
    figure.supxlabel(note, **CAPTION)
    return figure


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
        axis.plot(
            points["difference"], points["pair"].map(names.index) - 0.15, "o", ms=4, alpha=0.6
        )
        bars = known[["mean", "low", "high"]].to_numpy()
        rows = (name.replace("_", " ") for name in names)
        intervals(axis, dict(zip(rows, bars, strict=True)), COLOURS[1], 0.15)
        reach = pd.concat([points["difference"], known["low"], known["high"]]).abs().max()
        widest = 1.15 * max(0.0 if pd.isna(reach) else reach, margin)
        axis.set(title=OUTCOMES.get(outcome, outcome), xlim=(-widest, widest))
        if widest > NARROW * margin:
            signed_root(axis, margin)
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
    bars = pd.DataFrame(counts).T.reindex(columns=list(SHADES)).fillna(0).astype(int)
    left = np.zeros(len(bars))
    for verdict, widths in bars.loc[:, bars.any()].items():
        drawn = axis.barh(bars.index, widths, left=left, color=SHADES[verdict], label=verdict)
        axis.bar_label(drawn, [str(n) if n else "" for n in widths], label_type="center")
        left += widths.to_numpy()
    axis.invert_yaxis()
    axis.grid(False)
    axis.set_xlabel("number of claims")
    axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle("What became of the paper's claims")
    return figure
