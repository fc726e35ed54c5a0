"""Rules about training: intervals decide, and what differs beside κ confounds every outcome."""

import numpy as np
import pytest

from kappa_lib import paths
from kappa_lib.evidence import elsewhere
from kappa_lib.evidence.arms import unlike
from kappa_lib.evidence.claims import decide
from kappa_lib.evidence.rules_study import unless_confounded
from kappa_lib.evidence.verdicts import VERDICTS, Decision
from kappa_lib.weights import models

WOBBLE = np.array([0.001, -0.001, 0.0005, -0.0005, 0.0])


def arm(wer=0.1, text=0.03, kl=0.03, seeds=5, shares=(0.5, 0.5), **changed):
    """Runs that end at these values, up to a wobble from seed to seed."""
    wobble = WOBBLE[:seeds]
    ends = (wer + wobble[::-1]).tolist()
    return {
        "seeds": list(range(1, seeds + 1)),
        "wer": [[1.0, end] for end in ends],
        "text": (text + wobble).tolist(),
        "kl": (kl + wobble).tolist(),
        "corpora": {"de": ends, "en_human": ends},
        "parameters": 1000,
        "types": {"q_proj": shares[0], "v_proj": shares[1]},
        "layers": {"q_proj": 5.0, "v_proj": 5.0},
        "draws": seeds,
    } | changed


def other(**values):
    """As :func:`arm`, with another wobble, so that differences have a spread."""
    made = arm(**values)
    turned = {key: made[key][::-1] for key in ("wer", "text", "kl")}
    return made | turned


PAIRS = {
    "selected-beats-inverse": ("selected", "inverse"),
    "inverse-forgets-more": ("selected", "inverse"),
    "mitigates-forgetting": ("selected", "random"),
    "kappa-is-the-cause": ("low", "high"),
}


@pytest.mark.parametrize("claim", PAIRS)
@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ({"wer": 0.2, "text": 0.06, "kl": 0.06}, "holds"),
        ({"wer": 0.02, "text": 0.001, "kl": 0.001}, "fails"),
        ({}, "no relevant difference"),
    ],
)
def test_comparisons_by_interval(claim, second, verdict):
    names = PAIRS[claim]
    numbers = dict(zip(names, (arm(), other(**second)), strict=True))
    assert decide(claim, numbers).verdict == verdict
    # The same with what differs beside κ: never a verdict on κ, whoever would gain from it.
    for apart in ({"parameters": 1811}, {"parameters": 552}):
        confounded = {names[0]: arm(**apart), names[1]: numbers[names[1]]}
        assert decide(claim, confounded).verdict == "confounded"
    if claim != "mitigates-forgetting":
        mixed = {names[0]: arm(shares=(0.9, 0.1)), names[1]: numbers[names[1]]}
        assert decide(claim, mixed).verdict == "confounded"
    two = {name: arm(seeds=2) for name in names}
    assert decide(claim, two).verdict == "not testable here"
    assert decide(claim, {names[0]: arm(), names[1]: {}}).verdict == "not testable here"


def test_outcomes_that_disagree_leave_a_claim_undecided():
    numbers = {"low": arm(), "high": other(wer=0.2, text=0.06, kl=0.001)}
    found = decide("kappa-is-the-cause", numbers)
    assert found.verdict == "undecided"
    assert {name: part.verdict for name, part in found.parts.items()} == {
        "wer": "holds",
        "text": "holds",
        "kl": "fails",
    }


def test_depth_confounds_the_cause_alone():
    numbers = {
        "low": arm(layers={"q_proj": 8.5, "v_proj": 5.0}),
        "high": other(wer=0.2, text=0.06, kl=0.06),
    }
    found = decide("kappa-is-the-cause", numbers)
    assert found.verdict == "confounded"
    assert "its q_proj 3.5 layers higher" in found.note
    both = {"selected": numbers["low"], "inverse": numbers["high"]}
    assert decide("selected-beats-inverse", both).verdict == "holds"


def test_one_draw_for_all_seeds_confounds():
    numbers = {"selected": arm(), "random": other(text=0.06, kl=0.06, draws=1)}
    found = decide("mitigates-forgetting", numbers)
    assert found.verdict == "confounded"
    assert "5 seeds, the second 1 random draw for all of them" in found.note


@pytest.mark.parametrize("verdict", VERDICTS)
def test_confounding_takes_whatever_is_decided(verdict):
    found = unless_confounded(Decision(verdict), ["2.00 × the parameters"]).verdict
    kept = {"undecided", "confounded", "not testable here"}
    assert found == (verdict if verdict in kept else "confounded")
    assert unless_confounded(Decision(verdict), []).verdict == verdict


def test_a_hundredth_is_alike():
    assert unlike(arm(parameters=1000), arm(parameters=1009)) == []
    assert unlike(arm(parameters=1000), arm(parameters=1011)) != []


def test_the_pilot_is_left_out_where_three_others_are_there():
    first = arm(seeds=4) | {"seeds": [0, 1, 2, 3]}
    first["wer"] = [[1.0, 0.9], *first["wer"][1:]]
    second = other(seeds=4, wer=0.2) | {"seeds": [0, 1, 2, 3]}
    found = decide("selected-beats-inverse", {"selected": first, "inverse": second})
    assert (found.verdict, found.n) == ("holds", 3)
    assert "left out" in found.note
    short = [{**a, **{k: a[k][:3] for k in ("seeds", "wer")}} for a in (first, second)]
    found = decide("selected-beats-inverse", dict(zip(("selected", "inverse"), short, strict=True)))
    assert (found.verdict, found.n) == ("undecided", 3)
    assert "with pilot seed 0" in found.note


def curves(*points, seeds=5):
    """One curve of all seeds, up to a wobble at the end."""
    made = arm(seeds=seeds)
    made["wer"] = [[*points[:-1], points[-1] + w] for w in WOBBLE[:seeds]]
    return made


TURNS = curves(1.0, 0.1, 0.06, 0.12)
FALLS = curves(1.0, 0.3, 0.1, 0.05)
LONG = {"epochs": 10.0, "schedule": "constant"}


def test_figure_1():
    assert decide("inverse-rises", {"inverse": TURNS, **LONG}).verdict == "holds"
    assert decide("inverse-rises", {"inverse": FALLS, **LONG}).verdict == "no relevant difference"
    assert decide("selected-falls", {"selected": FALLS, **LONG}).verdict == "holds"
    assert decide("selected-falls", {"selected": TURNS, **LONG}).verdict == "fails"
    both = {"selected": FALLS, "inverse": TURNS, **LONG}
    assert decide("inverse-good-early", both).verdict == "holds"
    poor = both | {"inverse": curves(1.0, 0.5, 0.4, 0.5)}
    assert decide("inverse-good-early", poor).verdict == "fails"
    late = both | {"inverse": FALLS}
    assert decide("inverse-good-early", late).verdict == "holds", "its best before the end"
    talks = both | {"inverse": curves(3.0, 0.5, 0.4, 0.5)}
    assert decide("inverse-good-early", talks).verdict == "fails", "most of the way is silence"


def test_a_curve_that_only_wavers_does_not_rise():
    """The lowest of five points of pure noise lies below the end; a rise is seldom found there."""
    rng, said = np.random.default_rng(0), []
    for _ in range(400):
        wavers = arm(seeds=5) | {"wer": (0.8 + 0.05 * rng.standard_normal((5, 5))).tolist()}
        said.append(decide("inverse-rises", {"inverse": wavers, **LONG}).verdict)
    assert said.count("holds") < 0.05 * len(said)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0.6},
        {"schedule": "decaying"},
        {"inverse": curves(1.0, 0.5, seeds=2)},
    ],
)
def test_a_curve_that_cannot_turn_tests_nothing(change):
    numbers = {"inverse": TURNS, **LONG} | change
    assert decide("inverse-rises", numbers).verdict == "not testable here"


def test_a_run_that_cannot_turn_is_answered_for_by_the_committed_ones(monkeypatch, tmp_path):
    own = {"selected": FALLS, "inverse": TURNS}
    committed = {"selected": TURNS, "inverse": FALLS, **LONG}
    monkeypatch.setattr(elsewhere, "turn", lambda _: committed)
    assert elsewhere.curve(models.DEFAULT, **own, **LONG) == {**own, **LONG}
    assert elsewhere.curve(models.DEFAULT, **own, epochs=0.6, schedule="constant") == committed
    assert elsewhere.curve(models.DEFAULT, **own, epochs=10.0, schedule="decaying") == committed
    monkeypatch.undo()
    monkeypatch.setattr(paths, "REFERENCE", tmp_path)  # nothing is committed
    short = {**own, "epochs": 0.6, "schedule": "decaying"}
    assert elsewhere.curve(models.DEFAULT, **short) == short


def test_a_short_run_is_answered_for_by_the_committed_long_ones(monkeypatch):
    def modality(committed, utterances):
        monkeypatch.setattr(elsewhere, "_committed", lambda *_, **__: {"selected": committed})
        return elsewhere.modality(models.DEFAULT, arm(wer=0.9), utterances)

    assert modality(arm(wer=0.2), 640) == arm(wer=0.2)
    assert modality(arm(wer=0.2), 4800) == arm(wer=0.9), "as long itself"
    assert modality(arm(wer=0.2, seeds=2), 640) == arm(wer=0.9), "two seeds decide nothing"
    assert modality({}, 640) == arm(wer=0.9), "nothing is committed"


def stable(selected, inverse, noise_cost=(), gradient_noise=()):
    numbers = {"selected": selected, "inverse": inverse}
    told = {"noise_cost": list(noise_cost), "gradient_noise": list(gradient_noise)}
    return decide("low-kappa-is-stable", numbers | told)


def test_stability_is_measured_on_tensors_where_it_was():
    more, less = [0.4, 0.2, 0.6], [-0.4, -0.6, -0.2]
    assert stable({}, {}, more, more).verdict == "holds"
    assert stable({}, {}, less, less).verdict == "fails"
    assert stable({}, {}, more, less).verdict == "undecided"
    assert stable({}, {}, more, [0.1, -0.1, 0.3]).verdict == "undecided"
    assert stable({}, {}).verdict == "not testable here"


def test_stability_needs_more_than_a_range_of_three():
    calm = arm(seeds=3)
    loud = arm(seeds=3) | {"wer": [[1.0, 0.05], [1.0, 0.07], [1.0, 0.06]]}
    found = stable(calm, loud)
    assert found.estimate < 0.2
    assert (found.verdict, found.interval) == ("undecided", None)
    rng = np.random.default_rng(0)
    many = {"seeds": list(range(1, 31))}
    calm |= many | {"wer": [[1.0, x] for x in rng.normal(0.1, 0.001, 30)]}
    loud |= many | {"wer": [[1.0, x] for x in rng.normal(0.1, 0.01, 30)]}
    assert stable(calm, loud).verdict == "holds"
    assert stable(loud, calm).verdict == "fails"


def test_a_new_modality_is_people_too():
    understood = arm(wer=0.1)
    assert decide("new-modality", {"selected": understood}).verdict == "holds"
    people = understood | {
        "corpora": {"de": understood["corpora"]["de"], "en_human": [0.8, 0.82, 0.81, 0.8, 0.83]}
    }
    assert decide("new-modality", {"selected": people}).verdict == "holds with a correction"
    spread = understood | {"corpora": {"de": [0.1] * 5, "en_human": [0.3, 0.8, 0.6, 0.4, 0.5]}}
    assert decide("new-modality", {"selected": spread}).verdict == "undecided"
    assert decide("new-modality", {"selected": arm(wer=0.9)}).verdict == "fails"
    assert decide("new-modality", {"selected": arm(seeds=1)}).verdict == "not testable here"


def test_the_text_task_is_compared_at_matched_training_loss():
    tuned = arm() | {"train_loss": [1.0] * 5}
    lora = other(text=0.06, kl=0.06) | {"train_loss": [1.01] * 5}
    assert decide("new-text-task", {"kappatune": tuned, "lora": lora}).verdict == "holds"
    assert decide("new-text-task", {"kappatune": lora, "lora": tuned}).verdict == "fails"
    apart = lora | {"train_loss": [1.3] * 5}
    assert decide("new-text-task", {"kappatune": tuned, "lora": apart}).verdict == "confounded"
    assert decide("new-text-task", {"kappatune": {}, "lora": {}}).verdict == "not testable here"


def test_disruption_and_forgetting_must_go_together():
    calm = arm() | {"disruption": (0.1 + WOBBLE).tolist()}
    torn = {"disruption": (0.5 - WOBBLE).tolist()}
    more, less = other(text=0.06, kl=0.06) | torn, other(text=0.001, kl=0.001) | torn
    same = other() | {"disruption": (0.1 - WOBBLE).tolist()}
    name = "disruption-causes-forgetting"
    assert decide(name, {"low": calm, "high": more}).verdict == "holds"
    assert decide(name, {"low": calm, "high": less}).verdict == "fails"
    assert decide(name, {"low": calm, "high": same}).verdict == "undecided"
    assert decide(name, {"low": arm(), "high": arm()}).verdict == "not testable here"


def test_sizes_are_the_other_way_round_at_the_papers_shapes():
    numbers = {"parameters_selected": 56844288, "parameters_inverse": 31408128}
    found = decide("parameters-similar", numbers)
    assert found.verdict == "fails"
    assert "1.81 ×" in found.note
    assert "2.38 and 3.19 billion" in found.note
