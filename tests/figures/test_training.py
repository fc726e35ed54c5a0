"""Curves over training: a colour and a name per arm, whiskers where there are intervals."""

import numpy as np
import pandas as pd
import pytest

from kappa_lib.figures.style import ARM_COLOURS, COLOURS, arm_colours
from kappa_lib.figures.training import (
    LOWEST,
    forgetting_over_training,
    learning_and_forgetting,
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


def test_the_legend_names_each_arm_in_the_colour_of_its_curves():
    expected = arm_colours(["selected", "lowest_in_type"])
    figure = forgetting_over_training(runs(list(expected)))
    (legend,) = figure.legends
    named = zip(legend.get_texts(), legend.get_lines(), strict=True)
    colours = {text.get_text(): line.get_color() for text, line in named}
    assert colours == {
        arm.replace("_", " "): c for arm, c in arm_colours(["selected", "lowest_in_type"]).items()
    }
    for axis in figure.axes:
        assert [line.get_color() for line in axis.lines] == list(colours.values())


def test_no_error_at_all_is_drawn_at_the_edge_of_the_logarithmic_axis():
    axis = wer_over_training(runs(["selected", "inverse"])).axes[0]
    assert axis.get_yscale() == "log"
    assert [line.get_ydata()[-1] for line in axis.lines] == [pytest.approx(2.4), LOWEST]


def test_whiskers_are_the_intervals_of_a_seed_or_those_between_seeds():
    arms = ["selected", "inverse"]
    keys = [(arm, step, column) for arm in arms for step in range(4) for column in ("wer_de",)]
    bands = pd.DataFrame(keys, columns=["arm", "step", "column"]).assign(low=0.25, high=0.5)

    def drawn(figure):
        segments = [s for lines in figure.axes[1].collections for s in lines.get_segments()]
        return np.array([segment[:, 1] for segment in segments])

    one = wer_over_training(runs(arms), intervals=bands)
    assert drawn(one) == pytest.approx(np.tile([25.0, 50.0], (8, 1)))
    several = wer_over_training(runs(arms, seeds=3), intervals=bands)
    assert "lowest to highest" in several.get_suptitle()
    assert drawn(several)[0] == pytest.approx([300.0, 300.2])


def test_paths_have_a_line_per_seed_and_a_thick_mean():
    """Of seeds of 4 and 3 evaluations the mean is taken of the three that both have."""
    arms = ["selected", "inverse"]
    table = runs(arms, seeds=2).query("seed == 0 or step < 3")
    for panels, cost in ((None, "text_loss"), ({"one": {"selected": "low κ"}}, "kl")):
        figure = learning_and_forgetting(table, panels, cost=cost)
        (axis,) = figure.axes
        lines = [len(line.get_xdata()) for line in axis.lines]
        assert lines == [4, 3, 3] * (1 if panels else 2)
        names = [text.get_text() for text in axis.get_legend().get_texts()]
        assert names == (["low κ (n = 2)"] if panels else [f"{arm} (n = 2)" for arm in arms])
        assert axis.lines[2].get_ydata()[1] == pytest.approx(0.11 if panels else 2.1)
        assert axis.xaxis_inverted()


@pytest.mark.parametrize(
    ("seeds", "said"), [((1, 1), "(one seed)"), ((2, 2), "(2 seeds: blue"), ((1, 4), "(seeds: b")]
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


def test_differences_many_times_the_margin_are_spaced_by_square_roots():
    keys = {"pair": "a", "outcome": "kl"}
    found = pd.DataFrame([{**keys, "seed": seed, "difference": seed} for seed in (0, 1)])
    summary = pd.DataFrame([{**keys, "mean": 0.5, "low": -0.1, "high": 1.0}])
    for margin, scale in ((0.01, "function"), (0.5, "linear")):
        figure = paired(found, summary, {"kl": margin})
        axis = figure.axes[0]
        left, right = axis.transData.transform([(-margin, 1), (margin, 1)])[:, 0]
        # The margin is seen, and takes less than a sixth of an axis that reaches far beyond it.
        share = (right - left) / axis.get_window_extent().width
        assert share == pytest.approx((margin / 1.15) ** 0.5 if margin == 0.01 else 0.5 / 1.15)
        assert axis.get_xscale() == scale
        assert ("square roots" in figure.get_supxlabel()) is (scale == "function")
