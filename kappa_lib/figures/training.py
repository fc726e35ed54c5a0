"""Figures of the runs: word error rate, loss and forgetting over training, an arm a colour."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kappa_lib.figures.style import ARM_COLOURS, COLOURS, new_figure

TITLES = {
    "wer_mean": "mean of German and English\n(as in the paper's Figure 1)",
    "wer_de": "German, synthetic",
    "wer_en": "English, synthetic",
    "wer_en_human": "English, human\n(no human speech in training)",
    "wer_librispeech": "English, LibriSpeech test-clean",
    "wer_mls_german": "German, MLS test",
    "text_loss": "general-text loss",
    "kl": "KL from the base model",
    "heldout_loss": "held-out transcript loss",
}
WER_TOP = 110  # per cent
FEW = 2  # arms whose legend fits into a panel, and runs that can be labelled
TEXTS = {
    "english": "English prose",
    "german": "German",
    "technical": "technical (English)",
}
# Arm → corpus → rate, low, high, as fractions.
Intervals = Mapping[str, Mapping[str, tuple[float, float, float]]]
UNITS = {"text_loss": "nats a token", "kl": "nats a token", "heldout_loss": "nats a token"}


def colour(arm: str, arms: Sequence[str]) -> str:
    """The arm's colour: fixed for the paper's two, by position for the controls."""
    others = [name for name in arms if name not in ARM_COLOURS]
    spare = [c for c in COLOURS if c not in ARM_COLOURS.values()]
    return ARM_COLOURS.get(arm) or spare[others.index(arm) % len(spare)]


def _curve(axis: Axes, table: pd.DataFrame, column: str, percent: bool) -> None:
    arms = list(dict.fromkeys(table["arm"]))
    for arm in arms:
        rows = table[table["arm"] == arm]
        grouped = (rows[column] * (100 if percent else 1)).groupby(rows["utterances"])
        mean = grouped.mean()
        axis.plot(mean.index, mean, "o-", ms=4, color=colour(arm, arms), label=arm)
        if rows["seed"].nunique() > 1:
            low, high = grouped.min(), grouped.max()
            axis.fill_between(mean.index, low, high, color=colour(arm, arms), alpha=0.2, lw=0)


def _spread_note(table: pd.DataFrame) -> str:
    seeds = table["seed"].nunique()
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds, band: lowest to highest"


def _bars(axis: Axes, table: pd.DataFrame, corpus: str, intervals: Intervals) -> None:
    """Bootstrap intervals at the last evaluation, side by side."""
    arms = list(dict.fromkeys(table["arm"]))
    end = table["utterances"].max()
    for number, arm in enumerate(a for a in arms if corpus in intervals.get(a, {})):
        rate, low, high = (100 * value for value in intervals[arm][corpus])
        axis.errorbar(
            end * (1 + 0.02 * (number + 1)),
            rate,
            [[max(0, rate - low)], [max(0, high - rate)]],
            color=colour(arm, arms),
            capsize=2,
            lw=1,
        )


def wer_over_training(
    table: pd.DataFrame,
    human_trained: bool = False,
    note: str = "",
    intervals: Intervals | None = None,
) -> Figure:
    """Word error rate against utterances seen, a panel a test set.

    Args:
        table: of :func:`kappa_lib.evidence.tables.results`.
        human_trained: whether prompts of the voice of ``en_human`` were trained on.
        note: said under the figure, for instance that a corpus is missing.
        intervals: of the last evaluation, of
            :func:`kappa_lib.evidence.tables.wer_intervals` for each arm; drawn as bars.
    """
    found = [c for c in table if c.startswith("wer_")]
    own = {c: f"{c.removeprefix('wer_')}, own recordings" for c in found if c not in TITLES}
    titles = {**TITLES, **({"wer_mean": "mean of the test sets"} if own else {}), **own}
    columns = [c for c in titles if c in found]
    figure, axes = new_figure(
        1, len(columns), figsize=(3.1 * len(columns), 3.4), squeeze=False, sharey=True
    )
    for axis, column in zip(axes[0], columns, strict=True):
        _curve(axis, table, column, percent=True)
        _bars(axis, table, column.removeprefix("wer_"), intervals or {})
        title = titles[column]
        axis.set_title(
            title.splitlines()[0] if human_trained and column == "wer_en_human" else title
        )
        _clip(axis, table, column)
        axis.set_xlabel("training utterances")
    axes[0][0].set_ylabel("word error rate (%)")
    _legend(figure, axes[0][-1])
    bars = "; bars: 95 % over utterances" if intervals else ""
    figure.suptitle(f"Word error rate over training ({_spread_note(table)}{bars})")
    _caption(figure, note)
    return figure


def _legend(figure: Figure, axis: Axes) -> None:
    """Beside the panels when it would cover the curves."""
    handles, names = axis.get_legend_handles_labels()
    if len(names) <= FEW:
        axis.legend()
    else:
        figure.legend(handles, names, loc="outside right center")


def _caption(figure: Figure, note: str) -> None:
    if note:
        figure.supxlabel(note, fontsize=8, color=COLOURS[1])


def _clip(axis: Axes, table: pd.DataFrame, column: str) -> None:
    """Show 0 to 110 %, and say in words what lies above: mostly the untrained start."""
    axis.set_ylim(0, WER_TOP)
    start = 100 * table.loc[table["step"] == 0, column].max()
    if start > WER_TOP:
        axis.text(0.02, 0.03, f"start: {start:.0f} %", transform=axis.transAxes, size=8)


def forgetting_over_training(table: pd.DataFrame, note: str = "") -> Figure:
    """General-text loss, KL from the base model and held-out loss against utterances seen."""
    columns = ("text_loss", "kl", "heldout_loss")
    figure, axes = new_figure(1, len(columns), figsize=(3.7 * len(columns), 3.2))
    for axis, column in zip(axes, columns, strict=True):
        _curve(axis, table, column, percent=False)
        axis.set(title=TITLES[column], xlabel="training utterances", ylabel=UNITS[column])
    _legend(figure, axes[0])
    figure.suptitle(f"What the language model forgot and learned ({_spread_note(table)})")
    _caption(figure, note)
    return figure


def forgetting_by_text(table: pd.DataFrame, note: str = "") -> Figure:
    """Rise of the loss and KL from the base model over training, a column a kind of text.

    Args:
        table: of :func:`kappa_lib.evidence.tables.results`, with ``text_<kind>`` and ``kl_<kind>``.
        note: said under the figure.
    """
    kinds = [kind for kind in TEXTS if f"text_{kind}" in table]
    losses = [f"text_{kind}" for kind in kinds]
    start = table.sort_values("step").groupby(["arm", "seed"])[losses].transform("first")
    table = table.assign(**(table[losses] - start))
    figure, axes = new_figure(
        2, len(kinds), figsize=(3.4 * len(kinds), 5), sharex=True, sharey="row", squeeze=False
    )
    for kind, (above, below) in zip(kinds, axes.T, strict=True):
        _curve(above, table, f"text_{kind}", percent=False)
        _curve(below, table, f"kl_{kind}", percent=False)
        above.set_title(TEXTS[kind])
        below.set_xlabel("training utterances")
    axes[0][0].set_ylabel("rise of the loss (nats a token)")
    axes[1][0].set_ylabel("KL from base (nats a token)")
    _legend(figure, axes[0][-1])
    figure.suptitle(f"What was forgotten of each text ({_spread_note(table)})")
    _caption(figure, note)
    return figure


def learning_against_forgetting(table: pd.DataFrame, note: str = "") -> Figure:
    """Each arm's path: what it learned (held-out loss) against what it forgot (text loss).

    Lower and further right is better; arms are fairly compared at equal held-out loss.
    """
    arms = list(dict.fromkeys(table["arm"]))
    figure, axis = new_figure(figsize=(5.2 if len(arms) <= FEW else 7.2, 3.8))
    runs = table.groupby(["arm", "seed"], sort=False)
    for (arm, seed), rows in runs:
        first = seed == table["seed"].min()
        axis.plot(
            rows["heldout_loss"],
            rows["text_loss"],
            "o-",
            ms=4,
            color=colour(arm, arms),
            label=arm if first else None,
        )
        last = rows.iloc[-1]
        if runs.ngroups > FEW:
            axis.plot(last["heldout_loss"], last["text_loss"], "s", ms=8, color=colour(arm, arms))
            continue
        axis.annotate(f" step {last['step']}", (last["heldout_loss"], last["text_loss"]), size=8)
    axis.set_xlabel("held-out transcript loss (nats a token)")
    axis.set_ylabel("general-text loss (nats a token)")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.invert_xaxis()
    ends = ", squares: last step" if runs.ngroups > FEW else ""
    axis.set_title(f"Learning (to the right) against forgetting (upwards{ends})")
    _legend(figure, axis)
    _caption(figure, note)
    return figure


def warm_start(losses: Sequence[float], note: str = "") -> Figure:
    """CTC loss of the adaptor's warm start, a point a step."""
    figure, axis = new_figure(figsize=(5, 2.8))
    axis.plot(range(1, len(losses) + 1), losses)
    axis.set(xlabel="step", ylabel="CTC loss (nats an utterance)", yscale="log")
    axis.set_title("The adaptor's warm start")
    _caption(figure, note)
    return figure
