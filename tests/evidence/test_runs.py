"""Intervals of error rates and of forgetting, read from a run's files."""

import json

import jiwer
import numpy as np
import pytest

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import compare
from kappa_lib.evidence.runs import Runs, runs
from kappa_lib.spectra import selection


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))


def profile(*seeds):
    return profiles.load("smoke", arms=["selected"], seeds=list(seeds or (0,)))


def write_run(rows=(), metrics=(), seed=0):
    run = profile().folder / "runs" / f"selected-seed{seed}"
    (run / "transcripts").mkdir(parents=True, exist_ok=True)
    (run / "transcripts" / "step000004.json").write_text(json.dumps(list(rows)))
    lines = "".join(json.dumps(line) + "\n" for line in metrics)
    (run / "metrics.jsonl").write_text(lines)
    (run / "provenance.json").write_text("{}")


def test_arms_of_two_modules_of_one_name_are_of_different_types():
    """Also where each arm trains only one of them, and of experts, slices of a stored tensor."""
    trained = {
        "selected": ["h.0.attn.c_proj.weight"],
        "inverse": ["h.0.mlp.c_proj.weight", "h.1.mlp.experts.up_proj[3]"],
    }
    both = Runs(profiles.load("smoke", arms=list(trained)))
    for arm, names in trained.items():
        selection.Selection(arm, "", 0, names, 8, "").save(selection.path_of(both.profile, arm))
    names = [name for some in trained.values() for name in some]
    lines = "".join(f"{name},{kappa}\n" for name, kappa in zip(names, (7, 2, 8), strict=True))
    (both.profile.folder / "kappa.csv").write_text(f"tensor,kappa\n{lines}")
    assert both.trained[["arm", "type", "layer"]].values.tolist() == [
        ["selected", "attn.c_proj", 0.0],
        ["inverse", "mlp.c_proj", 0.0],
        ["inverse", "up_proj", 1.0],
    ]
    apart = compare.unlike(both, ("selected", "inverse"), ["parameters", "types", "layers"])
    assert apart == {"types": "100 % others"}
    shown = both.arms[["kappa", "layer", "attn.c_proj", "mlp.c_proj", "up_proj"]]
    # The geometric mean of 2 and 8 is 4.
    assert shown.round(9).to_numpy().tolist() == [[7, 0, 1, 0, 0], [4, 0.5, 0, 1, 1]]


def intervals(found):
    """Corpus → rate, low and high of the only evaluation."""
    rows = found.wer_intervals.query("column != 'wer_mean'")
    return {
        row.column.removeprefix("wer_"): (row.rate, row.low, row.high) for row in rows.itertuples()
    }


def row(reference, hypothesis, corpus="de"):
    return {"corpus": corpus, "reference": reference, "hypothesis": hypothesis}


def test_the_interval_of_two_utterances_is_that_of_their_four_draws():
    # One utterance of 1 word with 1 error, one of 3 words with none. Drawn with replacement the
    # rate is 1 (both the first), 1/4 (one each, twice as likely) or 0 (both the second).
    write_run([row("eins", "zwei"), row("eins zwei drei", "eins zwei drei")])
    assert intervals(runs(profile())) == {"de": (0.25, 0.0, 1.0)}


def test_every_corpus_has_its_interval_and_its_normaliser():
    rows = [row("three colours", "3 colors", "en"), row("drei", "vier", "de")]
    write_run(rows)
    assert intervals(runs(profile())) == {"en": (0, 0, 0), "de": (1, 1, 1)}


def test_the_rate_is_jiwer_s_and_the_interval_the_same_each_time():
    rng = np.random.default_rng(1)
    said = [" ".join(rng.choice(list("abcd"), rng.integers(0, 8))) for _ in range(40)]
    write_run([row("a b c d", words) for words in said])
    first, second = (intervals(runs(profile())) for _ in range(2))
    assert first == second
    rate, low, high = first["de"]
    assert rate == pytest.approx(jiwer.wer(["a b c d"] * 40, said))
    assert low < rate < high


def test_seeds_are_drawn_too():
    for seed, answer in ((0, "eins zwei"), (1, "drei vier")):
        write_run([row("eins zwei", answer)] * 5, seed=seed)
    both = profile(0, 1, 2)  # the third has not been run
    assert intervals(runs(both)) == {"de": (0.5, 0.0, 1.0)}
    assert intervals(runs(profile(1))) == {"de": (1.0, 1.0, 1.0)}


def texts(loss, kl):
    kind = {"window_loss": loss, "window_kl": kl, "loss": sum(loss) / 2, "kl": sum(kl) / 2}
    return {"text": {"english": kind, "german": kind}}


def test_what_was_forgotten_of_each_text():
    write_run(metrics=[texts([2.0, 4.0], [0, 0]), texts([2.5, 5.5], [0.1, 0.3])])
    found = runs(profile()).text_intervals("selected")
    assert list(found.index) == ["english", "german"]
    english = found.loc["english"]
    assert english["rise"] == pytest.approx(1.0)
    assert (english["rise_low"], english["rise_high"]) == (0.5, 1.5)
    assert english["kl"] == pytest.approx(0.2)
    assert (english["kl_low"], english["kl_high"]) == pytest.approx((0.1, 0.3))


def test_runs_from_before_there_were_kinds_of_text_say_so():
    write_run(metrics=[{"text_loss": 2.8}])
    with pytest.raises(InputError, match="single texts"):
        runs(profile()).text_intervals("selected")
    write_run()
    with pytest.raises(InputError, match="single texts"):
        runs(profile()).text_intervals("selected")
    with pytest.raises(InputError, match="inverse: no finished run"):
        runs(profile()).text_intervals("inverse")


def test_the_interval_of_the_languages_mean():
    """Two independent halves of the same width: the mean's is narrower by the root of two."""
    rows = [
        row(f"wort {i}", "wort 1" if i % 3 else f"wort {i}", c)
        for c in ("de", "en")
        for i in range(30)
    ]
    write_run([*rows, row("one", "two", "en_human")])
    found = runs(profile()).wer_intervals.set_index("column")[["rate", "low", "high"]]
    assert list(found.index) == ["wer_de", "wer_en", "wer_en_human", "wer_mean"]
    (rate, low, _), mean = found.loc["wer_de"], found.loc["wer_mean"]
    assert found.loc["wer_en"].tolist() == found.loc["wer_de"].tolist()
    assert mean["low"] == pytest.approx(rate - (rate - low) / 2**0.5)


def test_disruption_is_a_ratio_in_which_types_count_alike():
    write_run()
    spectra = profile().folder / "runs" / "selected-seed0" / "spectra.csv"
    # By hand: means |-0.1|, |0.3| → 0.2 and 0.002; their geometric mean is 0.02.
    spectra.write_text("type,dlogkappa\nq_proj,-0.1\nq_proj,0.3\nv_proj,0.002\n")
    assert runs(profile()).disruption("selected")[0] == pytest.approx(np.log(0.02))
    # Ten times the change in a single type moves it by log 10 over the number of types.
    spectra.write_text("type,dlogkappa\nq_proj,-1\nq_proj,3\nv_proj,0.002\n")
    assert runs(profile()).disruption("selected")[0] == pytest.approx(np.log(0.02) + np.log(10) / 2)
    spectra.unlink()
    assert runs(profile()).disruption("selected").empty


def test_epochs_are_those_of_what_fine_tuning_sees():
    write_run()
    changes = {"steps": 6, "batch": 4, "train_utterances": {"de": 8, "en": 8}}
    whole = profile().model_copy(update=changes)
    few = whole.model_copy(update={"tune_utterances": {"de": 2, "en": 4}})
    assert runs(whole).epochs == 24 / 16
    assert runs(few).epochs == 24 / 6
