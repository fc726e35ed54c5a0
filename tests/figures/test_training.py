"""Curves over training: arms named at their ends apart, whiskers where there are intervals."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from kappa_lib.figures.style import ARM_COLOURS, COLOURS, arm_colours
from kappa_lib.figures.training import (
    LOWEST,
    forgetting_over_training,
    paired,
    wer_over_training,
)
from kappa_lib.spectra.arms import ARMS


def runs(arms, seeds=1):
    """Four evaluations a run; every arm ends at nearly the same rate, one at none."""
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "step": step,
            "utterances": 8 * step,
            "wer_mean": 0.0 if (arm, step) == (arms[-1], 3) else 3.0 * 0.2**step + 0.001 * seed,
            "text_loss": 2.0 + 0.1 * step,
            "kl": 0.1 * step + 0.02 * seed,
            "heldout_loss": 5.0 / (step + 1),
        }
        for arm in arms
        for seed in range(seeds)
        for step in range(4)
    ]
    return pd.DataFrame(rows).assign(wer_de=lambda t: t["wer_mean"])


def test_every_arm_has_one_colour_of_its_own():
    assert set(ARMS) <= set(ARM_COLOURS)
    assert len(set(ARM_COLOURS.values())) == len(ARM_COLOURS)
    assert arm_colours(["inverse", "mine"]) == {"inverse": COLOURS[1], "mine": COLOURS[7]}


@pytest.mark.parametrize("seeds", [1, 3])
def test_names_at_the_ends_do_not_overlap(seeds):
    arms = list(ARMS)[:7]
    for figure in (wer_over_training(runs(arms, seeds)), forgetting_over_training(runs(arms))):
        figure.draw_without_rendering()
        for axis in figure.axes:
            boxes = sorted((Text.get_window_extent(t) for t in axis.texts), key=lambda b: b.y0)
            assert len(boxes) == len(arms)
            assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))
            # They stand in the order of their curves.
            named = sorted(axis.texts, key=lambda text: Text.get_window_extent(text).y0)
            ends = [text.xy[1] for text in named]
            assert ends == sorted(ends)


def test_no_error_at_all_is_drawn_at_the_edge_of_the_logarithmic_axis():
    axis = wer_over_training(runs(["selected", "inverse"])).axes[0]
    assert axis.get_yscale() == "log"
    assert [line.get_ydata()[-1] for line in axis.lines] == [pytest.approx(2.4), LOWEST]


def test_whiskers_are_the_intervals_or_else_the_seeds():
    arms, table = ["selected", "inverse"], runs(["selected", "inverse"], seeds=3)
    keys = [(arm, step, column) for arm in arms for step in range(4) for column in ("wer_de",)]
    bands = pd.DataFrame(keys, columns=["arm", "step", "column"]).assign(low=0.25, high=0.5)

    def drawn(figure):
        segments = [s for lines in figure.axes[1].collections for s in lines.get_segments()]
        return np.array([segment[:, 1] for segment in segments])

    assert drawn(wer_over_training(table, intervals=bands)) == pytest.approx(
        np.tile([25.0, 50.0], (8, 1))
    )
    # Several seeds, intervals at one evaluation only: whiskers of two kinds would be read as one.
    partly = wer_over_training(table, intervals=bands[bands["step"] == 3])
    assert "lowest to highest" in partly._suptitle.get_text()
    assert drawn(partly)[0] == pytest.approx([300.0, 300.2])


def test_a_name_has_its_curves_colour_and_a_curve_without_an_end_has_none():
    table = runs(["mine", "another", "third"])
    falls = table["arm"] == "another"
    table.loc[falls, "wer_de"] = table.loc[falls, "wer_de"] / 2
    table.loc[table["arm"] == "third", "wer_de"] = np.nan
    axis = wer_over_training(table).axes[1]
    lines = {line.get_label(): line.get_color() for line in axis.lines}
    assert {text.get_text(): text.get_color() for text in axis.texts} == {
        arm: lines[arm] for arm in ("mine", "another")
    }
    assert all(np.isfinite(text.get_position()).all() for text in axis.texts)


@pytest.mark.parametrize(
    ("seeds", "said"), [((1, 1), "(one seed)"), ((2, 2), "(2 seeds: dots"), ((1, 4), "(seeds: d")]
)
def test_pairs_with_other_numbers_of_seeds_are_not_counted_together(seeds, said):
    rows = [
        {"pair": pair, "seed": seed, "outcome": "kl", "difference": 0.1 * seed}
        for pair, number in zip("ab", seeds, strict=True)
        for seed in range(number)
    ]
    columns = ["pair", "outcome", "mean", "low", "high"]
    figure = paired(pd.DataFrame(rows), pd.DataFrame(columns=columns), {"kl": 0.01})
    assert said in figure.get_suptitle()


def test_the_margin_is_readable_where_differences_are_many_times_as_large():
    keys = {"pair": "a", "outcome": "kl"}
    found = pd.DataFrame([{**keys, "seed": seed, "difference": seed} for seed in (0, 1)])
    summary = pd.DataFrame([{**keys, "mean": 0.5, "low": -0.1, "high": 1.0}])
    for margin, scale in ((0.01, "symlog"), (0.5, "linear")):
        figure = paired(found, summary, {"kl": margin})
        axis = figure.axes[0]
        left, right = axis.transData.transform([(-margin, 1), (margin, 1)])[:, 0]
        assert right - left > 0.2 * axis.get_window_extent().width
        assert axis.get_xscale() == scale
        assert ("logarithmic" in figure.get_supxlabel()) is (scale == "symlog")
        if scale == "symlog":
            told = [text.get_text() for text in axis.get_xticklabels()]
            assert told == ["−1", "−0.1", "−0.01", "0", "+0.01", "+0.1", "+1"]
