"""Pairs of arms: differences in closed form, and the intervals that read them."""

import math

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import compare, report
from kappa_lib.evidence.runs import Runs
from kappa_lib.figures.training import OUTCOMES, paired


def made(evaluations: pd.DataFrame, trained: pd.DataFrame | None = None) -> Runs:
    """Runs with these evaluations, which lie nowhere."""
    found = Runs.__new__(Runs)
    found.profile = profiles.load("smoke")
    found.folders = {tuple(run): None for run in evaluations[["arm", "seed"]].values.tolist()}
    found.evaluations = evaluations
    if trained is not None:
        found.trained = trained
    return found


def run(arm: str, seed: int, learned: list[float], cost: list[float], wer: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": arm,
            "seed": seed,
            "step": range(len(learned)),
            "heldout_de": learned,
            "text_loss": cost,
            "kl": [0.1 * value for value in cost],
            "wer_mean": wer,
        }
    )


def test_equal_learning_is_where_both_paths_pass_the_worse_learners_end():
    """By hand: the second ends at 2, which the first passes half-way from 3 to 1, at 12."""
    first = run("selected", 0, [5.0, 3.0, 1.0], [10.0, 11.0, 13.0], 0.1)
    second = run("inverse", 0, [5.0, 4.0, 2.0], [10.0, 10.5, 11.5], 0.2)
    assert compare.at_equal_learning(first, second, "heldout_de") == pytest.approx(12.0 - 11.5)
    assert compare.at_equal_learning(second, first, "heldout_de") == pytest.approx(11.5 - 12.0)
    assert compare.at_equal_learning(first, second, "heldout_de", "kl") == pytest.approx(0.05)


def test_kinds_of_text_are_told_apart_where_their_mean_shows_nothing():
    rows = [
        run(arm, seed, [5.0, 1.0], [10.0, 10.0], 0.1).assign(
            text_english=[1.0, 1.0 + gain], text_german=[2.0, 2.0 - gain], kl_english=gain
        )
        for arm, gain in (("selected", 0.25), ("inverse", 0.0))
        for seed in (1, 2, 3)
    ]
    found = made(pd.concat(rows))
    texts = compare.texts_of(found)
    each = compare.seed_by_seed(found, outcomes=texts)
    means = each.groupby("outcome")["difference"].mean().to_dict()
    assert means == {"text english": 0.25, "text german": -0.25, "kl english": 0.25}
    readings = compare.comparisons(found, outcomes=texts).set_index("outcome")["reading"]
    assert readings["text english"] == "higher"
    assert compare.texts_of(made(run("selected", 1, [5.0], [10.0], 0.1))) == []


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
    assert compare.at_equal_learning(*ways, "heldout_de") == pytest.approx(expected, abs=1e-9)


def _straight(start, end, gradient, count):
    learned = [start + (end - start) * i / count for i in range(count + 1)]
    return learned, [10.0 + gradient * (start - x) for x in learned]


def test_a_path_that_turns_is_taken_where_it_first_comes_down():
    first = run("selected", 0, [5.0, 1.0, 4.0, 0.5], [10.0, 11.0, 20.0, 21.0], 0.1)
    second = run("inverse", 0, [5.0, 1.0], [10.0, 10.0], 0.1)
    assert compare.at_equal_learning(first, second, "heldout_de") == pytest.approx(1.0)


def test_a_run_that_learned_nothing_cannot_be_compared():
    flat = run("selected", 0, [5.0, 5.0], [10.0, 10.0], 1.0)
    falling = run("inverse", 0, [5.0, 1.0], [10.0, 10.0], 0.1)
    assert math.isnan(compare.at_equal_learning(flat, falling, "heldout_de"))
    several = [r.assign(seed=seed) for r in (flat, falling) for seed in (1, 2, 3)]
    found = made(pd.concat(several))
    summary = compare.comparisons(found).set_index("outcome")
    assert summary.loc["kl at equal de", "reading"] == "not reached"
    alone = made(pd.concat([flat, falling]))
    each, summary = compare.seed_by_seed(alone), compare.comparisons(alone)
    assert each[each["outcome"].str.contains("at equal")]["difference"].isna().all()
    assert set(summary["reading"]) == {"too few seeds"}
    paired(each, summary, {"wer": 1.0, "text at equal de": 0.01})


def test_without_the_loss_of_each_corpus_nothing_is_matched():
    """The pooled loss is mostly that of prompts that were hardly learned."""
    pooled = results().rename(columns={"heldout_de": "heldout_loss"})
    assert compare.outcomes_of(made(pooled)) == ["wer", "text", "kl"]


def results() -> pd.DataFrame:
    parts = []
    for seed, shift in enumerate([0.0, 0.1, 0.2]):
        parts.append(run("lowest_in_type", seed, [5.0, 1.0], [10.0, 10.2 + shift], 0.05))
        parts.append(run("highest_in_type", seed, [5.0, 1.0], [10.0, 10.3], 0.07 + shift))
    return pd.concat(parts)


def test_outcomes_are_paired_by_seed_and_signed():
    found = compare.seed_by_seed(made(results()))
    assert found["pair"].unique().tolist() == ["lowest_in_type − highest_in_type"]
    of = {name: group["difference"].tolist() for name, group in found.groupby("outcome")}
    assert of["wer"] == pytest.approx([-2.0, -12.0, -22.0])
    assert of["text"] == of["text at equal de"] == pytest.approx([-0.1, 0.0, 0.1])
    assert of["kl"] == of["kl at equal de"] == pytest.approx([-0.01, 0.0, 0.01])


def test_only_seeds_of_both_arms_are_compared():
    table = results()
    table = table[(table["arm"] == "lowest_in_type") | (table["seed"] != 1)]
    pair = ("lowest_in_type", "highest_in_type")
    assert compare.differences(made(table), pair, "kl").index.tolist() == [0, 2]


@pytest.mark.parametrize("outcome", ["wer", "wer de", "wer at equal de"])
def test_error_rates_are_in_points_in_every_outcome(outcome):
    table = results().assign(wer_de=lambda rows: rows["wer_mean"])
    found = compare.compare(made(table), ("lowest_in_type", "highest_in_type"), outcome)
    assert (found["mean"], found["reading"]) == (pytest.approx(-12.0), "undecided")


@pytest.mark.parametrize(
    ("second", "outcome", "lacking"),
    [
        ("selected", "kl", "selected"),
        ("highest_in_type", "wer fr", "wer_fr"),
        ("highest_in_type", "kl at equal fr", "heldout_fr"),
    ],
)
def test_an_outcome_or_arm_that_was_not_measured_is_refused(second, outcome, lacking):
    with pytest.raises(InputError, match=f"the runs have no {lacking}"):
        compare.compare(made(results()), ("lowest_in_type", second), outcome)


def test_intervals_read_the_outcomes():
    """By hand: mean ± 4.303 · 10 / √3 for the WER; all of one side only with a large mean."""
    table = compare.comparisons(made(results())).set_index("outcome")
    half = 4.302653 * 10 / 3**0.5
    wer = table.loc["wer"]
    assert (wer["mean"], wer["low"], wer["high"]) == pytest.approx((-12, -12 - half, -12 + half))
    assert wer["effect"] == pytest.approx(-1.2)
    assert wer["reading"] == "undecided"
    assert (table["n"] == 3).all()
    far, pair = results(), ("lowest_in_type", "highest_in_type")
    far.loc[far["arm"] == "highest_in_type", "wer_mean"] += 1.0
    assert compare.compare(made(far), pair, "wer")["reading"] == "lower"
    assert compare.compare(made(far), pair[::-1], "wer")["reading"] == "higher"
    alone = compare.comparisons(made(far[far["seed"] == 0]))
    assert set(alone["reading"]) == {"too few seeds"}
    assert alone["mean"].notna().all()
    pilot = pd.concat([far, far[far["seed"] == 2].assign(seed=3)])
    assert (compare.comparisons(made(pilot))["n"] == 3).all()


def test_a_table_shows_every_pair():
    text = report.table("pairs", compare.comparisons(made(results())))
    pair = "| lowest_in_type − highest_in_type |"
    assert f"{pair} WER | 3 | -12.00 [-36.84, +12.84] | -1.2 | undecided |" in text
    assert (
        "| KL at equal held-out loss of de | 3 | +0.0000 [-0.0248, +0.0248] | -0.0 | undecided |"
        in text
    )


def test_the_figure_has_a_point_a_seed_and_zero_in_the_middle():
    found, summary = compare.seed_by_seed(made(results())), compare.comparisons(made(results()))
    figure = paired(found, summary, compare.MARGINS, note="a note")
    assert [axis.get_title() for axis in figure.axes] == list(OUTCOMES.values())
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert low == -high
        points = next(line for line in axis.lines if line.get_marker() == "o")
        assert len(points.get_xdata()) == 3
    assert "3 seeds" in figure._suptitle.get_text()
