"""Rules: intervals decide, and what differs beside κ confounds every outcome."""

import numpy as np
import pytest
from made_runs import TENSORS, arm, write

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import rules, runs
from kappa_lib.evidence.claims import catalogue
from kappa_lib.evidence.rules import Comparison
from kappa_lib.evidence.verdicts import Decision, Interval, Verdict, unless_confounded

HOLDS, CORRECTED, FAILS, SAME, UNDECIDED, CONFOUNDED, NOT_TESTABLE, _, LOWER, HIGHER = Verdict


@pytest.fixture(autouse=True)
def nothing_committed(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    return tmp_path / "results"


def decide(claim_id, found):
    return catalogue()[claim_id].decided_by.decide(found.profile)


PAIRS = {
    "selected-beats-inverse": ("selected", "inverse"),
    "inverse-forgets-more": ("selected", "inverse"),
    "mitigates-forgetting": ("selected", "random_matched_size"),
    "kappa-is-the-cause": ("lowest_in_type", "highest_in_type"),
    "new-text-task": ("selected", "all"),
}


@pytest.mark.parametrize("claim", PAIRS)
@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ({"wer": 0.2, "text": 0.06, "kl": 0.06}, HOLDS),
        ({"wer": 0.02, "text": 0.001, "kl": 0.001}, FAILS),
        ({}, SAME),
    ],
)
def test_comparisons_by_interval(claim, second, verdict, tmp_path):
    one, two = PAIRS[claim]
    other = arm(turned=True, **second)
    assert decide(claim, write(tmp_path, {one: arm(), two: other})).verdict == verdict
    # The same with what differs beside κ: never a verdict on κ, whoever would gain from it.
    for apart in (1811, 552):
        found = write(tmp_path, {one: arm(parameters=apart), two: other})
        assert decide(claim, found).verdict == "confounded"
    mixed = write(tmp_path, {one: arm(tensors=TENSORS[:1]), two: other})
    free = claim in ("mitigates-forgetting", "new-text-task")
    assert decide(claim, mixed).verdict == (verdict if free else "confounded")


@pytest.mark.parametrize("claim", PAIRS)
def test_too_few_seeds_or_arms_test_nothing(claim, tmp_path):
    two = write(tmp_path, {name: arm() for name in PAIRS[claim]}, seeds=(1, 2))
    assert decide(claim, two).verdict == "not testable here"
    alone = write(tmp_path / "alone", {PAIRS[claim][0]: arm(), "mlp": arm()})
    alone = runs.Runs(alone.profile.model_copy(update={"arms": ["mlp"]}))
    assert decide(claim, alone).note == "an arm was not run"


def test_outcomes_that_disagree_leave_a_claim_undecided(tmp_path):
    pair = PAIRS["kappa-is-the-cause"]
    arms = (arm(), arm(wer=0.2, text=0.06, kl=0.001, turned=True))
    found = decide("kappa-is-the-cause", write(tmp_path, dict(zip(pair, arms, strict=True))))
    assert found.verdict == UNDECIDED
    readings = {name: part.verdict for name, part in found.parts.items()}
    assert readings == {"wer": LOWER, "text": LOWER, "kl": HIGHER}


def test_depth_confounds_the_cause_alone(tmp_path):
    deep = [name.replace("layers.4.self_attn.q", "layers.9.self_attn.q") for name in TENSORS]
    forgets = arm(wer=0.2, text=0.06, kl=0.06, turned=True)
    cause = write(tmp_path, {"lowest_in_type": arm(tensors=deep), "highest_in_type": forgets})
    found = decide("kappa-is-the-cause", cause)
    assert found.verdict == "confounded"
    assert "layers q_proj +2.5" in found.note
    paper = write(tmp_path, {"selected": arm(tensors=deep), "inverse": forgets})
    assert decide("selected-beats-inverse", paper).verdict == HOLDS


@pytest.mark.parametrize(
    ("claim", "more", "said"),
    [
        ("mitigates-forgetting", {"draws": 1}, "draws 1 for 5 seeds"),
        ("new-text-task", {"train_loss": 1.3}, "training loss up to 0.30 nats apart"),
    ],
)
def test_one_draw_and_another_training_loss_confound(tmp_path, claim, more, said):
    first, second = PAIRS[claim]
    apart = arm(text=0.06, kl=0.06, turned=True, **more)
    found = decide(claim, write(tmp_path, {first: arm(), second: apart}))
    assert found.verdict == CONFOUNDED
    assert said in found.note


@pytest.mark.parametrize("verdict", [HOLDS, CORRECTED, FAILS, SAME, UNDECIDED, NOT_TESTABLE])
def test_confounding_takes_whatever_is_decided(verdict):
    found = unless_confounded(Decision(verdict), {"parameters": "× 2.00"}).verdict
    assert found == (verdict if verdict in (UNDECIDED, NOT_TESTABLE) else CONFOUNDED)
    assert unless_confounded(Decision(verdict), {}).verdict == verdict


def test_all_pairs_that_are_asked_for_must_agree_by_holm(tmp_path):
    asked = {"pairs": [("value", "key"), ("mlp", "key")], "outcomes": ["kl"]}
    rule = Comparison(**asked, every=True)
    ends = {"value": [-0.10, -0.12, -0.11], "mlp": [-0.2, -0.25, -0.22], "key": [0.0, 0.0, 0.0]}

    def found(**changed):
        made = {
            name: arm(
                evaluations={s: [{"step": 0, "kl": x, "wer": {}}] for s, x in enumerate(of, 1)}
            )
            for name, of in (ends | changed).items()
        }
        return write(tmp_path, made, (1, 2, 3))

    decided = rule.decide(found().profile)
    assert decided.verdict == HOLDS
    assert list(decided.parts) == ["value − key, kl", "mlp − key, kl"]
    assert rule.decide(found(mlp=[0.2, 0.25, 0.22]).profile).verdict == UNDECIDED
    # Differences of 0.1, 0.2 and 0.15 have t = √27 and p = 0.035, of which two count as 0.07.
    weak = rule.decide(found(value=[0.1, 0.2, 0.15], mlp=[0.1, 0.2, 0.15]).profile)
    assert {part.verdict for part in weak.parts.values()} == {UNDECIDED}
    assert weak.parts["mlp − key, kl"].p == pytest.approx(0.0351, abs=1e-4)
    alone = write(tmp_path / "alone", {name: arm() for name in ("value", "key")})
    assert rule.decide(alone.profile).note == "an arm was not run"


def test_the_pilot_is_left_out_where_three_others_are_there(tmp_path):
    arms = {"selected": arm(), "inverse": arm(wer=0.2, turned=True)}
    for seeds, n, said in (((0, 1, 2, 3), 3, "left out"), ((0, 1, 2), 3, "with pilot")):
        found = decide("selected-beats-inverse", write(tmp_path / str(seeds), arms, seeds=seeds))
        assert (found.verdict, found.n) == (HOLDS, n)
        assert said in found.note


def test_committed_runs_decide_for_their_model_and_for_no_other(monkeypatch):
    own = profiles.load("smoke")
    monkeypatch.setattr(paths, "REFERENCE", paths.ROOT / "results" / "reference")
    runs.committed.cache_clear()
    assert runs.runs_for("cause", own).profile.seeds == list(range(1, 11))
    with pytest.raises(InputError, match="no finished run"):
        runs.runs_for("cause", own.model_copy(update={"model": "another"}))
    with pytest.raises(InputError, match="no finished run"):
        runs.runs_for("cause", profiles.load("cause"))  # its own, however few


def curve(*points, seeds=5):
    """WER of several seeds in percent, up to a wobble at the end."""
    wobble = [0.1, -0.1, 0.05, -0.05, 0.0][:seeds]
    return np.array([[*points[:-1], points[-1] + w] for w in wobble])


TURNS, FALLS = curve(100, 10, 6, 12), curve(100, 30, 10, 5)


def test_figure_1():
    assert rules.rises(FALLS, TURNS).verdict == rules.falls(FALLS, TURNS).verdict == HOLDS
    assert rules.rises(FALLS, FALLS).verdict == SAME
    assert rules.falls(TURNS, TURNS).verdict == FAILS
    assert rules.good_early(FALLS, TURNS).verdict == HOLDS
    assert rules.good_early(FALLS, curve(100, 50, 40, 50)).verdict == FAILS
    assert rules.good_early(FALLS, FALLS).verdict == HOLDS, "its best before the end"
    talks = rules.good_early(FALLS, curve(300, 50, 40, 50))
    assert talks.verdict == FAILS, "most of the way is silence"


def test_a_curve_that_only_wavers_does_not_rise():
    """The lowest of five points of pure noise lies below the end; a rise is seldom found there."""
    rng = np.random.default_rng(0)
    wavers = (80 + 5 * rng.standard_normal((5, 5)) for _ in range(400))
    assert sum(rules.rise(of).verdict == HIGHER for of in wavers) < 0.05 * 400


def test_a_curve_that_cannot_turn_tests_nothing(tmp_path):
    rises = {"wer": 0.12, "curve": (1.0, 0.1, 0.06)}
    both = {"selected": arm(**rises), "inverse": arm(**rises, turned=True)}
    found = write(tmp_path, both)
    assert decide("inverse-rises", found).note.startswith(f"{found.epochs:.2g} epochs")
    longer = found.profile.model_copy(update={"steps": 1000})
    assert rules.RULES["the curve rises"](runs.Runs(longer)).verdict == HOLDS
    decaying = {name: of | {"schedule": "decaying"} for name, of in both.items()}
    write(tmp_path, decaying)
    assert "decaying rate" in rules.RULES["the curve rises"](runs.Runs(longer)).note
    write(tmp_path, both)
    two = longer.model_copy(update={"seeds": [1, 2]})
    assert rules.RULES["the curve rises"](runs.Runs(two)).note == "too few seeds"


def test_a_new_modality_is_people_too(tmp_path):
    def verdict(corpora, seeds=(1, 2, 3, 4, 5)):
        found = write(tmp_path / str(len(seeds)), {"selected": arm(corpora=corpora)}, seeds)
        return decide("new-modality", found).verdict

    heard, unheard = [0.1, 0.11, 0.1, 0.12, 0.1], [0.8, 0.82, 0.81, 0.8, 0.83]
    assert verdict({"de": heard, "en_human": heard}) == HOLDS
    assert verdict({"de": heard, "en_human": unheard}) == CORRECTED
    assert verdict({"de": heard, "en_human": [0.3, 0.8, 0.6, 0.4, 0.5]}) == UNDECIDED
    assert verdict({"de": unheard}) == FAILS
    assert verdict({"de": heard}, seeds=(1,)) == "not testable here"


def test_disruption_and_forgetting_must_go_together(tmp_path):
    def verdict(low, high):
        pair = dict(zip(PAIRS["kappa-is-the-cause"], (low, high), strict=True))
        return decide("disruption-causes-forgetting", write(tmp_path, pair)).verdict

    assert verdict(arm(), arm()) == NOT_TESTABLE  # no spectra

    calm = arm(disruption=0.1)
    assert verdict(calm, arm(text=0.06, kl=0.06, turned=True, disruption=0.5)) == HOLDS
    assert verdict(calm, arm(text=0.001, kl=0.001, turned=True, disruption=0.5)) == FAILS
    assert verdict(calm, arm(turned=True, disruption=0.1)) == UNDECIDED


UP, FLAT, DOWN, WIDE = (0.6, 0.4, 0.7), (0.0, -0.1, 0.1), (-0.5, -0.7, -0.4), (0.3, 0.1, 0.5)


@pytest.mark.parametrize(
    ("claim", "found", "verdict"),
    [
        ("kappa-tracks-encoding", (UP, UP), HOLDS),
        ("kappa-tracks-encoding", (FLAT, FLAT), FAILS),
        ("kappa-tracks-encoding", (FLAT, DOWN), FAILS),
        ("kappa-tracks-encoding", (UP, FLAT), CORRECTED),
        ("kappa-tracks-encoding", (DOWN, UP), CORRECTED),
        ("kappa-tracks-encoding", (UP, WIDE), UNDECIDED),
        ("encoding-capacity", (UP, FLAT), CORRECTED),
        ("encoding-capacity", (FLAT, UP), UNDECIDED),
        ("pruning-by-kappa", (UP, UP), HOLDS),
        ("pruning-by-kappa", (DOWN, DOWN), CORRECTED),
        ("pruning-by-kappa", (DOWN, FLAT), UNDECIDED),
        ("pruning-by-kappa", (FLAT, FLAT), FAILS),
        ("pruning-by-kappa", (UP, FLAT), UNDECIDED),
        ("low-kappa-is-stable", (UP, UP), HOLDS),
        ("low-kappa-is-stable", (DOWN, DOWN), FAILS),
        ("low-kappa-is-stable", (UP, DOWN), UNDECIDED),
        ("kappa-as-proxy", ((0.95, 0.9, 0.97),), HOLDS),
        ("kappa-as-proxy", ((0.42, 0.29, 0.53),), FAILS),
        ("kappa-as-proxy", ((0.8, 0.7, 0.9),), UNDECIDED),
    ],
)
def test_correlations_against_their_band(claim, found, verdict):
    rule = catalogue()[claim].decided_by
    each = zip(rule.outcomes, found, strict=True)
    decision = rule.read({name: Interval(*of, 30) for name, of in each})
    assert (decision.verdict, decision.n) == (verdict, 30)
    shown = [part.interval for part in decision.parts.values()] or [decision.interval]
    assert shown == [of[1:] for of in found]


def test_another_model_than_the_studied_one_has_no_correlations():
    other = profiles.load("smoke", model="another")
    found = catalogue()["kappa-tracks-encoding"].decided_by.decide(other)
    assert (found.verdict, found.note) == ("not testable here", "not measured for this model")
