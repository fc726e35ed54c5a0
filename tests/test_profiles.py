import math

import pytest
import yaml

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.training.experiment import VERSION
from kappa_lib.training.trainer import settings


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_loads_under_its_own_name(name):
    profile = profiles.load(name)
    assert profile.profile == name
    content = yaml.safe_load(profiles.find(name).read_text(encoding="utf-8"))
    assert profile.model_dump(include=set(content), exclude_unset=True) == content
    assert profile.model_dump(exclude_defaults=True).keys() <= content.keys()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("desktop", "use one of .*laptop"),
        ("nowhere/nope.yaml", r"no profile .*nope\.yaml"),
        ("reference/smoke", "no committed run"),
    ],
)
def test_what_names_no_profile_is_refused(source, said):
    with pytest.raises(InputError, match=said):
        profiles.load(source)


def test_the_share_is_the_paper_s():
    assert profiles.load("laptop").share == 100 / 224


OWN = {"folder": "takes", "language": "en", "text": "text"}
LORA, GAUGED = {"of": "selected", "rank": 8, "alpha": 8.0}, {"of": "selected"}
LEARNED = {"lora_rank": 8, "spectra": False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corpora": {"de": OWN}}, "corpora"),
        ({"corpora": {"a b": OWN}}, "corpora"),
        ({"corpora": {"mine": {**OWN, "rate": "16000"}}}, "corpora"),
        ({"corpora": {"mine": {"folder": "takes"}}}, "corpora: mine has no language, text"),
        ({"corpora": {"mine": {**OWN, "language": "English"}}}, "corpora"),
        ({"corpora": {"mine": "a folder"}}, "corpora"),
        ({"corpora": ["mine"]}, "corpora"),
        ({"train_utterances": {"mine": 3}}, "train_utterances"),
        ({"steps": True}, "steps"),
        ({"steps": 0}, "steps"),
        ({"lr": -1.0}, "lr"),
        ({"share": 0.7}, "share"),
        ({"dtype": "int4"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"arms": []}, "arms"),
        ({"test_utterances": {"fr": 3}}, "test_utterances"),
        ({"tune_utterances": {"fr": 3}}, "tune_utterances"),
        ({"task": "singing"}, "task"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"lora": {"selected": LORA}}, "lora_rank"),
        ({"lora_rank": 8}, "spectra has to be false with a lora_rank"),
        (LEARNED | {"lora": {"selectd": LORA}}, "lora: selectd is not among the arms"),
        (LEARNED | {"lora": {"selected": LORA | {"of": "adaptor_only"}}}, "adaptor_only"),
        (LEARNED | {"lora": {"selected": LORA}, "gauge": {"selected": GAUGED}}, "gauge, too"),
        ({"gauge": {"nobody": GAUGED}}, "gauge: nobody is not among the arms"),
        ({"stop_loss": -0.5}, "stop_loss"),
        ({"levels": [2.5, 1.5]}, "levels"),
        ({"arm_lr": {"nobody": 0.1}}, "arm_lr"),
        ({"arm_lr": {"selected": 0.0}}, "arm_lr"),
        ({"arm_lr": {"selected": math.inf}}, "arm_lr"),
    ],
)
def test_an_unusable_value_is_refused_by_name(change, said):
    with pytest.raises(InputError, match=said):
        profiles.load("smoke", **change)


def test_a_missing_key_is_named(tmp_path):
    values = yaml.safe_load(profiles.find("smoke").read_text(encoding="utf-8"))
    del values["lr"]
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="lr: Field required"):
        profiles.load(tmp_path / "smoke.yaml")


def test_a_key_that_stands_twice_is_refused_at_any_depth(tmp_path):
    text = profiles.find("smoke").read_text(encoding="utf-8")
    for added in ("steps: 4000\n", "gauge: {a: {of: selected, dose: 1, dose: 2}}\n"):
        (tmp_path / "smoke.yaml").write_text(text + added, encoding="utf-8")
        with pytest.raises(InputError, match=r"the key (steps|dose) stands there twice"):
            profiles.load(tmp_path / "smoke.yaml")


def test_a_run_that_stops_at_a_loss_needs_steps_to_average_it_over():
    with pytest.raises(InputError, match="eval_every has to be at least 20"):
        profiles.load("smoke", stop_loss=2.0, eval_every=19)
    assert profiles.load("smoke", stop_loss=2.0, eval_every=20).stop_loss == 2.0


# Their runs are of an earlier version of the computation, which today's code does not repeat; the
# page of all runs says so.
OLDER = {("study", 1)}
COMMITTED = sorted(paths.REFERENCE.glob("*/runs/*/config.json"))


@pytest.mark.parametrize("name", sorted({path.parts[-4] for path in COMMITTED}))
def test_committed_runs_are_the_runs_that_their_profile_describes(name):
    """What a profile says of a run must not change, or no earlier run could be resumed."""
    profile = profiles.load(name)
    found = settings(profile)
    for path in paths.REFERENCE.joinpath(name).glob("runs/*/config.json"):
        config = read_json(path)
        del config["seed"]  # the run's, not the profile's
        later = {"dtype"} if found["dtype"] == "auto" else set()  # as that machine took it
        later |= {"text_tokens"} if name == "study" else set()  # raised after its runs
        expected = found | {key: config[key] for key in later}
        if own := profile.lora.get(config["arm"]):
            expected |= {"lora": own.model_dump()}
        assert {key: config[key] for key in profiles.Profile.model_fields if key in config} == (
            expected
        )


def test_committed_runs_that_today_s_code_would_not_repeat_are_named():
    versions = {(path.parts[-4], read_json(path)["version"]) for path in COMMITTED}
    assert {run for run in versions if run[1] != VERSION} == OLDER
    page = (paths.REFERENCE / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}` is of version {version}" in page for name, version in OLDER)


def test_a_notebook_s_cell_wins_over_the_file_and_its_profile_is_the_current_one():
    profile = profiles.load({"profile": "smoke", "steps": 7, "unrelated": 1})
    assert profile.steps == 7
    assert profile.batch == profiles.load("smoke").batch
    assert profiles.current() is profile
    assert profiles.load("laptop") is not profiles.current() is profile


def test_a_notebook_s_cell_can_be_executed_again():
    namespace = {"profile": "smoke", "steps": 7}
    namespace["profile"] = profiles.load(namespace)
    assert profiles.load(namespace) == namespace["profile"]


def test_a_committed_run_is_read_where_it_lies_with_the_seeds_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    monkeypatch.setattr(paths, "REFERENCE", tmp_path / "reference")
    own = profiles.load("study")
    for run in ("inverse-seed2", "selected-seed1", "selected-seed2", "unheard_of-seed1"):
        folder = tmp_path / "reference" / "study" / "runs" / run
        folder.mkdir(parents=True)
        (folder / "provenance.json").touch()
    found = profiles.load({"profile": "reference/study", "steps": 7})
    assert (found.arms, found.seeds, found.steps) == (["selected", "inverse"], [1, 2], own.steps)
    assert found.folder == tmp_path / "reference" / "study"
    assert found.output == tmp_path / "shown" / "study"
    assert own.folder == own.output == tmp_path / "study"
    with pytest.raises(InputError, match="take profile study"):
        profiles.load("reference/study", seeds=[2])


@pytest.fixture
def mine(tmp_path):
    text = profiles.find("smoke").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("profile: smoke", "profile: mine"), encoding="utf-8")
    return path


def test_a_profile_of_one_s_own_is_found_by_its_path(mine):
    assert profiles.load(mine, steps=7).model_dump() == (
        profiles.load("smoke").model_dump() | {"profile": "mine", "steps": 7}
    )
    with pytest.raises(InputError, match="there is no profile 'mine'"):
        profiles.load("mine")


def test_folders_of_models_and_speech_are_found_from_the_profile_s_place(mine, monkeypatch):
    """Notebooks are executed in another folder than the one from which a run is called."""
    (mine.parent / "models" / "llama").mkdir(parents=True)
    corpora = {"mine": dict(OWN)}
    values = yaml.safe_load(mine.read_text(encoding="utf-8"))
    mine.write_text(yaml.safe_dump(values | {"model": "models/llama", "corpora": corpora}))
    assert profiles.load(str(mine)).model == str(mine.parent / "models" / "llama")
    assert profiles.load(str(mine)).corpora["mine"]["folder"] == str(mine.parent / "takes")
    monkeypatch.setenv("HOME", str(mine.parent / "home"))
    corpora["mine"]["folder"] = "~/takes"
    found = profiles.load("smoke", corpora=corpora).corpora["mine"]["folder"]
    assert found == str(mine.parent / "home" / "takes")
    monkeypatch.chdir(mine.parent)
    assert profiles.load("smoke", encoder="./models").encoder == str(mine.parent / "models")
    assert profiles.load("smoke").encoder == "whisper-base"


def test_a_copy_that_would_write_over_the_original_s_results_is_refused(mine):
    copy = mine.with_name("copy.yaml")
    copy.write_text(mine.read_text())
    with pytest.raises(InputError, match="write profile: copy"):
        profiles.load(str(copy))
