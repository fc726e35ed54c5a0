"""Pairs of arms: differences in closed form, and which outcomes all seeds agree on."""

import math

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given

from kappa_lib.evidence import pairs, report
from kappa_lib.figures.pairs import TITLES, paired
from kappa_lib.spectra import selection


def run(arm: str, seed: int, learned: list[float], cost: list[float], wer: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": arm,
            "seed": seed,
            "step": range(len(learned)),
            "heldout_loss": learned,
            "text_loss": cost,
            "wer_mean": wer,
        }
    )


def test_equal_learning_is_where_both_paths_pass_the_worse_learners_end():
    """By hand: the second ends at 2, which the first passes half-way from 3 to 1, at 12."""
    first = run("selected", 0, [5.0, 3.0, 1.0], [10.0, 11.0, 13.0], 0.1)
    second = run("inverse", 0, [5.0, 4.0, 2.0], [10.0, 10.5, 11.5], 0.2)
    assert pairs.at_equal_learning(first, second) == pytest.approx(12.0 - 11.5)
    assert pairs.at_equal_learning(second, first) == pytest.approx(11.5 - 12.0)


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.floats(-2, 2), st.floats(-2, 2), st.integers(2, 6))
def test_on_straight_paths_it_is_the_difference_of_slopes(a, b, slope, other, count):
    """Cost = start + slope · (learned so far): the difference is that of slopes times the way."""
    start = 5.0
    ways = [
        run("selected", 0, *_straight(start, end, gradient, count), 0.0)
        for end, gradient in ((a, slope), (b, other))
    ]
    way = start - max(a, b)
    expected = (slope - other) * way
    assert pairs.at_equal_learning(*ways) == pytest.approx(expected, abs=1e-9)


def _straight(start, end, gradient, count):
    learned = [start + (end - start) * i / count for i in range(count + 1)]
    return learned, [10.0 + gradient * (start - x) for x in learned]


def test_a_path_that_turns_is_taken_where_it_first_comes_down():
    first = run("selected", 0, [5.0, 1.0, 4.0, 0.5], [10.0, 11.0, 20.0, 21.0], 0.1)
    second = run("inverse", 0, [5.0, 1.0], [10.0, 10.0], 0.1)
    assert pairs.at_equal_learning(first, second) == pytest.approx(1.0)


def test_a_run_that_learned_nothing_cannot_be_compared():
    flat = run("selected", 0, [5.0, 5.0], [10.0, 10.0], 1.0)
    falling = run("inverse", 0, [5.0, 1.0], [10.0, 10.0], 0.1)
    assert math.isnan(pairs.at_equal_learning(flat, falling))
    found = pairs.outcomes(pd.concat([flat, falling]))
    assert found["text_at_equal"].isna().all()
    paired(pairs.outcomes(pd.concat([flat, falling])))


def results() -> pd.DataFrame:
    parts = []
    for seed, shift in enumerate([0.0, 0.1, 0.2]):
        parts.append(run("lowest_in_type", seed, [5.0, 1.0], [10.0, 10.2 + shift], 0.05))
        parts.append(run("highest_in_type", seed, [5.0, 1.0], [10.0, 10.3], 0.07 + shift))
    return pd.concat(parts)


def test_outcomes_are_paired_by_seed_and_signed():
    found = pairs.outcomes(results())
    assert found["pair"].unique().tolist() == ["lowest_in_type − highest_in_type"]
    assert found["wer"].tolist() == pytest.approx([-2.0, -12.0, -22.0])
    assert found["text"].tolist() == pytest.approx([-0.1, 0.0, 0.1])
    assert found["text_at_equal"].tolist() == pytest.approx([-0.1, 0.0, 0.1])


def test_seeds_agree_only_when_all_do():
    table = pairs.summary(pairs.outcomes(results())).set_index("outcome")
    assert table.loc["wer", "agree"] == "first"
    assert table.loc["text", "agree"] == "no"
    assert table.loc["wer", "mean"] == pytest.approx(-12.0)
    assert (table["seeds"] == 3).all()
    turned = results().replace(
        {"lowest_in_type": "highest_in_type", "highest_in_type": "lowest_in_type"}
    )
    other = pairs.summary(pairs.outcomes(turned)).set_index("outcome")
    assert other.loc["wer", "agree"] == "second"
    alone = results()[results()["seed"] == 0]
    assert set(pairs.summary(pairs.outcomes(alone))["agree"]) == {"one seed"}


def test_the_report_shows_every_pair():
    text = report.pairs_table(results())
    row = "| lowest_in_type − highest_in_type | -12.0 (-22.0 to -2.0; all: first) |"
    assert row in text
    assert "0.0000 (-0.1000 to +0.1000; seeds differ)" in text
    assert "No two arms" in report.pairs_table(results()[:2])


def table(kinds: list[str], kappas: list[float]) -> pd.DataFrame:
    names = [f"model.layers.{i}.{kind}.weight" for i, kind in enumerate(kinds)]
    rows = [16 if kind == "q_proj" else 8 for kind in kinds]
    return pd.DataFrame(
        {"tensor": names, "type": kinds, "layer": range(len(kinds)), "rows": rows, "cols": 8}
        | {"kappa": kappas}
    )


def test_what_differs_between_two_arms():
    kappa = table(["q_proj", "q_proj", "v_proj", "v_proj"], [100.0, 50.0, 2.0, 4.0])
    arms = {
        name: selection.select(kappa, name, 2)
        for name in ("selected", "inverse", "lowest_in_type", "highest_in_type")
    }
    found = pairs.differences(arms, kappa)
    whole = found.loc["selected − inverse"]
    assert whole["kappa"] == pytest.approx((2 * 4 / (100 * 50)) ** 0.5)
    assert (whole["parameters"], whole["types"], whole["tensors"]) == (0.5, 1.0, 0.0)
    within = found.loc["lowest_in_type − highest_in_type"]
    assert within["kappa"] == pytest.approx(0.5)
    assert (within["parameters"], within["types"], within["tensors"]) == (1.0, 0.0, 0.0)
    # By hand: v_proj of layers 2, 3 less q_proj of 0, 1; and layers 1, 2 less 0, 3.
    assert (whole["layer"], within["layer"]) == (2.0, 0.0)


def test_the_figure_has_a_point_a_seed_and_zero_in_the_middle():
    figure = paired(pairs.outcomes(results()), note="a note")
    assert [axis.get_title() for axis in figure.axes] == list(TITLES.values())
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert low == -high
        points = [line for line in axis.lines if line.get_marker() == "o"]
        assert sum(len(line.get_xdata()) for line in points) == 3
    assert "3 seeds" in figure._suptitle.get_text()
