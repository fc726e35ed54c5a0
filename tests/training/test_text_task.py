"""The text task and LoRA, on the real tokenizer and sentences and a random two-layer Llama."""

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from kappa_lib.errors import InputError
from kappa_lib.evidence.runs import runs
from kappa_lib.run import stages
from kappa_lib.spectra import scan
from kappa_lib.spectra.selection import as_lora, select
from kappa_lib.training import evaluation, trainer
from kappa_lib.training.experiment import insert_lora
from kappa_lib.training.text_task import TextExperiment, load, without_vowels
from kappa_lib.training.trainer import train

SMOOTHED = 5  # steps that a training loss is the mean of; in earnest four times as many
SETTING = {
    "task": "vowels",
    "lora_rank": 4,
    "arms": ["selected", "all"],
    "train_utterances": {"de_open": 40, "en_open": 40},
    "test_utterances": {"de_open": 3, "en_open": 3},
    "schedule": "constant",
    "spectra": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture
def profile(model, tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    monkeypatch.setattr(trainer, "SMOOTHED", SMOOTHED)
    monkeypatch.setattr(evaluation, "WINDOW", tiny.WINDOW)
    return lambda **changes: tiny.profile(model, **{**SETTING, **changes})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Der Lotse geht von Bord.", "Dr Lts ght vn Brd."),
        ("Über Äpfel, I say: a EU!", "br pfl, sy: !"),
        ("A eye you", "y y"),
        ("why", "why"),
    ],
)
def test_vowels_are_taken_out(text, left):
    assert without_vowels(text) == left


def test_questions_lack_vowels_and_answers_have_them(profile):
    data = load(profile())
    assert len(data.ids) == len(data.texts) == len(data.features) == 80
    shown = tiny.tokenizer().decode(data.features[7])
    assert shown == without_vowels(data.texts[7]) != data.texts[7]
    tested = {text for test in data.tests for text in test.texts}
    assert [t.language for t in data.tests] == ["de", "en"]
    assert not tested & set(data.texts)


def test_nothing_to_test_on_is_refused(profile):
    with pytest.raises(InputError, match="nothing to train or to test on"):
        load(profile(test_utterances={}))


def test_lora_arms_have_equally_many_parameters_and_pefts_count():
    llama = tiny.llama()
    table = scan.scan(llama)
    for arm in ("selected", "all"):
        chosen = as_lora(table, select(table, arm, 4), 8)
        wrapped = get_peft_model(
            tiny.llama(), LoraConfig(r=int(chosen.rule.split()[-1]), **chosen.peft_targets())
        )
        assert chosen.parameters == wrapped.get_nb_trainable_parameters()[0]
    few, every = (as_lora(table, select(table, arm, 4), 8) for arm in ("selected", "all"))
    assert abs(few.parameters / every.parameters - 1) < 0.05  # half a rank of few matrices


@pytest.mark.slow
def test_an_arm_of_peft_s_default_has_its_rank_and_scale(profile):
    usual = LoraConfig()
    own = {"like_peft": {"of": "selected", "rank": usual.r, "alpha": float(usual.lora_alpha)}}
    own = profile(arms=["selected", "like_peft"], lora=own, seeds=[0], steps=1)
    experiment, arms = stages.prepare(own)
    assert arms["like_peft"].tensors == arms["selected"].tensors
    wrapped = get_peft_model(tiny.llama(), LoraConfig(**arms["like_peft"].peft_targets()))
    assert arms["like_peft"].parameters == wrapped.get_nb_trainable_parameters()[0]
    scales = {}
    for arm, chosen in arms.items():
        experiment.speech_llm(0, chosen)
        layers = (m for m in experiment.llm.modules() if isinstance(m, LoraLayer))
        scales[arm] = next(layers).scaling["default"]
    assert scales == {"selected": 2.0, "like_peft": usual.lora_alpha / usual.r}
    config = {arm: trainer.run_config(experiment, chosen, 0) for arm, chosen in arms.items()}
    assert "lora" not in config["selected"]  # whose earlier runs stay the same runs
    assert config["like_peft"]["lora"] == own.lora["like_peft"].model_dump()


def test_inserted_matrices_change_nothing_until_they_are_trained():
    llama, ids = tiny.llama(), torch.arange(12)[None]
    before = llama(input_ids=ids).logits
    table = scan.scan(llama)
    chosen = as_lora(table, select(table, "selected", 4), 8)
    names = insert_lora(llama, chosen, seed=3)
    parameters = dict(llama.named_parameters())
    assert len(names) == 8
    assert sum(parameters[name].numel() for name in names) == chosen.parameters
    assert torch.equal(llama(input_ids=ids).logits, before)
    other = tiny.llama()
    again = insert_lora(other, chosen, seed=3)
    assert all(torch.equal(dict(other.named_parameters())[n], parameters[n]) for n in again)


@pytest.mark.slow
def test_a_run_learns_stops_at_its_loss_and_leaves_the_model_as_it_was(profile):
    pace = {"arms": ["selected"], "seeds": [0, 1], "lr": 0.01, "steps": SMOOTHED + 15}
    whole = profile(**pace, eval_every=100)
    experiment, arms = stages.prepare(whole)
    assert isinstance(experiment, TextExperiment)
    before = {n: p.clone() for n, p in experiment.llm.named_parameters()}
    stages.train_all(experiment, arms)
    after = dict(experiment.reload().named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    rows = runs(whole).evaluations
    ends = rows[rows["step"] > 0]
    assert (ends["step"] == SMOOTHED + 15).all()
    assert (ends["heldout_loss"].to_numpy() < rows["heldout_loss"].iloc[0]).all()
    assert (ends["kl"] > 0).all()

    level = ends["train_loss"].max() + 0.3
    stopped = profile(**pace, eval_every=100, stop_loss=level)
    stages.train_all(*stages.prepare(stopped))
    ends = runs(stopped).evaluations.query("step > 0")
    assert (ends["step"] < SMOOTHED + 15).all()
    assert (ends["train_loss"] <= level).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ({"stop_loss": 100.0}, [0, SMOOTHED]),  # where it stopped it learns no further
        ({"stop_loss": 0.001, "levels": [100.0]}, [0, SMOOTHED, 2 * SMOOTHED + 5]),  # once a level
    ],
)
def test_a_run_killed_at_a_loss_goes_on_as_without(profile, losses, steps):
    pace = {"lr": 0.01, "steps": 2 * SMOOTHED + 5, "eval_every": 100} | losses
    experiment, arms = stages.prepare(profile(arms=["selected"], seeds=[0], **pace))

    def kill(done):
        if done == SMOOTHED:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(experiment, arms["selected"], 0, kill)
    rows = train(experiment, arms["selected"], 0)
    assert [row["step"] for row in rows] == steps


@pytest.mark.slow
def test_an_arm_has_its_own_rate_and_a_run_its_own_few_sentences(profile, monkeypatch):
    few = profile(
        arms=["selected", "all"],
        arm_lr={"all": 1e-9},
        tune_utterances={"en_open": 4},
        batch=4,
        steps=3,
        lr=0.01,
    )
    seen = set()
    experiment, arms = stages.prepare(few)
    loss = type(experiment.speech_llm(0)).forward
    monkeypatch.setattr(
        "kappa_lib.training.model.SpeechLLM.forward",
        lambda self, questions, texts: seen.update(texts) or loss(self, questions, texts),
    )
    stages.train_all(experiment, arms)
    tested = {text for test in experiment.data.tests for text in test.texts}
    assert seen - tested == set(experiment.data.texts[40:44])  # German comes first
    ends = runs(few).evaluations.query("step == 3").set_index("arm")["kl"]
    assert ends["all"] < 1e-6 < ends["selected"]
