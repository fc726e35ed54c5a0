import numpy as np
import pytest
from scipy import stats

from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import (
    Decision,
    Interval,
    Verdict,
    bootstrap_mean,
    bootstrap_ratio,
    decide_difference,
    holm,
    interval,
    together,
)

_, _, _, SAME, UNDECIDED, _, NOT_TESTABLE, _, LOWER, HIGHER = Verdict

# Standard deviation of paired differences in the committed study, in points of word error rate.
SPREAD = 1.03


def verdicts(seeds, effect, trials=2000):
    """Share of each reading over trials in which the true difference is ``effect``."""
    rng = np.random.default_rng(7)
    shared = rng.normal(5.0, 3.0, (trials, seeds))
    second = shared + rng.normal(0.0, SPREAD / np.sqrt(2), (trials, seeds))
    first = shared + effect + rng.normal(0.0, SPREAD / np.sqrt(2), (trials, seeds))
    found = [decide_difference(a - b, 1.0).verdict for a, b in zip(first, second, strict=True)]
    return {name: found.count(name) / trials for name in (LOWER, HIGHER, SAME, UNDECIDED)}


def test_a_difference_has_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8))
    found, test = decide_difference(a - b, 1.0), stats.ttest_rel(a, b)
    assert found.estimate == pytest.approx((a - b).mean())
    assert found.p == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    half = stats.t.ppf(0.95, 7) * (a - b).std(ddof=1) / np.sqrt(8)
    assert found.narrow == pytest.approx(((a - b).mean() - half, (a - b).mean() + half))
    assert found.effect == pytest.approx(test.statistic / np.sqrt(8))


def test_equivalence_is_two_one_sided_tests():
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = rng.normal(0.0, 0.5, (2, 6))
        margin = 0.6
        found = decide_difference(a - b, margin)
        below = stats.ttest_1samp(a - b, margin, alternative="less").pvalue < 0.05
        above = stats.ttest_1samp(a - b, -margin, alternative="greater").pvalue < 0.05
        assert (-margin < found.narrow[0] and found.narrow[1] < margin) == (below and above)


def test_verdicts_follow_the_intervals():
    wobble = np.array([0.1, -0.1, 0.1, -0.1])
    assert decide_difference(wobble - 5, 1.0).verdict == LOWER
    assert decide_difference(wobble + 5, 1.0).verdict == HIGHER
    assert decide_difference(wobble, 1.0).verdict == SAME
    assert decide_difference(20 * wobble, 1.0).verdict == UNDECIDED
    assert decide_difference([-5.0, -5.0], 1.0).verdict == NOT_TESTABLE
    # No spread at all: the interval is the point.
    assert decide_difference([-5.0] * 4, 1.0).interval == (-5.0, -5.0)
    assert decide_difference([0.0] * 4, 1.0).verdict == SAME
    with pytest.raises(InputError, match="NaN"):
        decide_difference([1.0, np.nan, 2.0], 1.0)


@pytest.mark.parametrize(
    ("seeds", "undecided", "effect"), [(3, 0.86, 3.3), (5, 0.7, 1.7), (10, 0.2, 1)]
)
def test_without_an_effect_the_design_is_rarely_wrong_and_its_effect_is_found(
    seeds, undecided, effect
):
    none, some = verdicts(seeds, 0.0), verdicts(seeds, -effect)
    assert max(none[LOWER], none[HIGHER]) < 0.05
    # With more seeds more of the rest is known to be no relevant difference.
    assert none[UNDECIDED] == pytest.approx(undecided, abs=0.05)
    assert some[LOWER] == pytest.approx(0.8, abs=0.06)
    assert some[HIGHER] < 0.01


def test_holm_against_a_worked_example():
    # Holm (1979): sorted p times 4, 3, 2, 1, never below the one before.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_bootstrap_of_one_seed_is_scipys():
    rng = np.random.default_rng(3)
    errors, words = rng.poisson(1.0, 120), rng.integers(3, 9, 120)
    found = bootstrap_ratio([errors], [words], resamples=4000)
    theirs = stats.bootstrap(
        (errors, words),
        lambda e, w, axis: e.sum(axis) / w.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.estimate == pytest.approx(errors.sum() / words.sum())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert found == bootstrap_ratio([errors], [words], resamples=4000)


def test_bootstrap_knows_the_spread_between_seeds():
    same = np.tile(np.random.default_rng(4).normal(size=200), (5, 1))
    shifted = same + np.arange(5)[:, None]
    narrow, wide = bootstrap_mean(same), bootstrap_mean(shifted)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    with pytest.raises(InputError, match="ragged"):
        bootstrap_mean([[1.0, 2.0], [1.0]])


def test_outcomes_that_point_apart_have_no_p_together():
    """One sided, the p of the outcome that points the other way is above one half."""
    rng = np.random.default_rng(1)
    b = rng.normal(size=8)
    lower, higher = (decide_difference(shift - b / 9, 0.1) for shift in (-1, 1))
    assert max(lower.p, higher.p) < 0.001
    assert together({"wer": lower, "kl": lower}).p == lower.p
    assert together({"wer": lower, "kl": higher}).p == 1.0
    assert together({"wer": lower, "kl": higher}).verdict == UNDECIDED


@pytest.mark.parametrize(
    ("claimed", "verdicts"),
    [
        (LOWER, ["holds", "fails", SAME, UNDECIDED]),
        (HIGHER, ["fails", "holds", SAME, UNDECIDED]),
    ],
)
def test_a_claim_reads_its_comparison(claimed, verdicts):
    readings = (LOWER, HIGHER, SAME, UNDECIDED)
    parts = ({"wer": Decision(r, 0.0), "kl": Decision(r, 0.0)} for r in readings)
    assert [together(of, claimed).verdict for of in parts] == verdicts


def test_an_interval_is_written_with_its_ends():
    assert Interval(0.414, 0.196, -0.001, 9).text() == "+0.41 [+0.20, +0.00]"
    assert interval(-0.14, float("nan"), float("nan"), 1) == "-0.1"
