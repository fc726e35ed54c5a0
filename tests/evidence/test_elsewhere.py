import numpy as np
import pandas as pd
import pytest

from kappa_lib import paths
from kappa_lib.evidence import elsewhere
from kappa_lib.training.checkpoints import read_metrics
from kappa_lib.weights import models


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ((0.5, 0.31, 0.7), "yes"),
        ((0.1, -0.1, 0.19), "no"),
        ((-0.5, -0.7, -0.3), "no"),
        ((0.4, 0.1, 0.6), "open"),
        ((0.25, 0.21, 0.29), "open"),
    ],
)
def test_the_word_on_the_title_follows_the_interval(found, word):
    assert elsewhere.tracks(found) == word


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ((2.0, 1.8, 2.2), "something"),
        ((0.0, -0.009, 0.009), "nothing"),
        ((0.02, 0.005, 0.03), "open"),
        ((-0.02, -0.03, -0.011), "open"),
    ],
)
def test_the_word_on_the_smallest_singular_values(found, word):
    assert elsewhere.worth(found) == word


@pytest.fixture
def folder(tmp_path):
    """A study in which κ ranks the deficit in q, and what σ_k of v is worth is two nats."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "tensor": f"model.layers.{layer}.{kind}.weight",
            "type": kind,
            "layer": layer,
            "rows": 4,
            "cols": 8,
            "kappa": np.exp(rng.standard_normal()),
            "input_kappa": 7.0,
        }
        for layer in range(20)
        for kind in ("q_proj", "v_proj")
    ]
    table = pd.DataFrame(rows)
    table["deficit"] = table["deficit_isotropic"] = table["kappa"]
    table.to_csv(tmp_path / "tensors.csv", index=False)
    surgery = [
        {
            "scope": scope,
            "change": change,
            "window": window,
            "base": 3.0,
            # The windows differ by more than the change costs; the pairs do not.
            "loss": window + (2.0 if (scope, change) == ("v_proj", "surgery") else 0.0),
        }
        for scope in ("q_proj", "v_proj", "all")
        for change in ("surgery", "surgery_elsewhere", "surgery_noise")
        for window in range(12)
    ]
    pd.DataFrame(surgery).to_csv(tmp_path / "surgery.csv", index=False)
    return tmp_path


def test_a_row_a_study(folder):
    found = elsewhere.information({"a model": folder}).loc["a model"]
    assert found["tensors"] == 40
    assert found["types"] == 2
    assert found["loss"] == 3
    assert found["real"] == "+1.00 [+1.00, +1.00]"
    assert found["κ tracks it"] == "yes"


def test_windows_are_compared_with_themselves(folder):
    found = elsewhere.smallest(folder)
    assert found["nats a token"].to_dict() == {
        "q_proj": "+0.000 [+0.000, +0.000]",
        "v_proj": "+2.000 [+2.000, +2.000]",
    }
    assert found["σ_k is worth"].to_dict() == {"q_proj": "nothing", "v_proj": "something"}


def test_stability_is_within_types_and_takes_infinite_noise_for_the_most(folder):
    table = pd.read_csv(folder / "tensors.csv")
    stable = pd.DataFrame({"tensor": table["tensor"], "kl": -table["kappa"]})
    stable["noise_scale"] = table["kappa"].where(table["kappa"] < table["kappa"].max(), np.inf)
    found = elsewhere.stability(table, stable)
    assert found["noise_cost"].estimate == pytest.approx(-1)
    assert found["gradient_noise"].estimate == pytest.approx(1)
    assert found["noise_cost"].level == 0.975


def test_a_question_is_answered_by_the_runs_of_its_two_arms():
    found = elsewhere.questions()
    assert len(found["pair"].unique()) <= len(elsewhere.QUESTIONS)
    rows = found[found["pair"].str.startswith("type: attention − MLP (n = 6)")]
    kl = rows[rows["outcome"] == "kl"].set_index("seed")["difference"]
    for seed in range(1, 7):
        folders = (f"{kind}_matched_size-seed{seed}" for kind in ("attention", "mlp"))
        ends = [read_metrics(paths.REFERENCE / "type" / "runs" / f)[-1]["kl"] for f in folders]
        assert kl[seed] == pytest.approx(ends[0] - ends[1])


def test_whether_it_is_kappa_is_decided_by_the_runs_with_more_seeds():
    committed = elsewhere.cause(models.DEFAULT, {}, {})
    assert [len(committed[arm]["seeds"]) for arm in ("low", "high")] == [10, 10]
    three, ten = {"seeds": [0, 1, 2]}, {"seeds": [*range(10)]}
    assert elsewhere.cause(models.DEFAULT, three, three) == committed
    assert elsewhere.cause(models.DEFAULT, ten, ten) == {"low": ten, "high": ten}


def test_the_committed_runs_say_nothing_of_another_model():
    three = {"seeds": [0, 1, 2]}
    assert elsewhere.cause("/data/mine", three, three) == {"low": three, "high": three}
    assert elsewhere.text_task("/data/mine") == {"kappatune": {}, "lora": {}}
    assert elsewhere.modality("/data/mine", three, 640) == three
    own = {"selected": three, "inverse": three, "epochs": 0.5, "schedule": "decaying"}
    assert elsewhere.curve("/data/mine", **own) == own
    assert elsewhere.curve(models.DEFAULT, **own)["epochs"] > 2


def test_the_advice_follows_the_intervals(monkeypatch):
    told = elsewhere.advice()
    assert "Not on this evidence" in told
    folders = [paths.REFERENCE / "long" / "runs" / f"selected-seed{n}" for n in (1, 2, 3)]
    others = [f.with_name(f.name.replace("selected", "inverse_matched_size")) for f in folders]
    first, second = ([read_metrics(f)[-1]["kl"] for f in of] for of in (folders, others))
    assert f"after 600 steps: {np.mean(first) - np.mean(second):+.3f} [" in told
    rows = elsewhere.questions()
    less = rows.assign(difference=-rows["difference"])
    monkeypatch.setattr(elsewhere, "questions", lambda: less)
    turned = elsewhere.advice()
    assert "By these runs yes" in turned
    assert "**more**" not in turned
    some = rows["pair"].str.startswith("LoRA")
    mixed = rows.assign(difference=rows["difference"].where(some, -rows["difference"]))
    monkeypatch.setattr(elsewhere, "questions", lambda: mixed)
    assert "The runs disagree" in elsewhere.advice()


def test_a_question_is_answered_by_three_seeds_or_not_at_all():
    assert elsewhere.questions().groupby("pair")["seed"].nunique().min() >= 3
