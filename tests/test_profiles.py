import math

import pytest
import yaml

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_file_loads_under_its_own_name(name):
    assert profiles.load(name).profile == name


def test_the_share_is_the_paper_s():
    assert profiles.load("laptop").share == 100 / 224


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stepss": 3}, "stepss"),
        ({"steps": "many"}, "steps"),
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
        ({"stop_loss": -0.5}, "stop_loss"),
        ({"arm_lr": {"nobody": 0.1}}, "arm_lr"),
        ({"arm_lr": {"selected": 0.0}}, "arm_lr"),
        ({"arm_lr": {"selected": math.inf}}, "arm_lr"),
    ],
)
def test_an_unusable_value_is_refused_by_name(change, said):
    with pytest.raises(InputError, match=said):
        profiles.load("smoke", **change)


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(InputError, match="laptop"):
        profiles.load("desktop")


def test_a_missing_key_is_named(tmp_path, monkeypatch):
    values = yaml.safe_load(profiles.find("smoke").read_text(encoding="utf-8"))
    del values["lr"]
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(paths, "OWN_PROFILES", tmp_path)
    with pytest.raises(InputError, match="missing profile key lr"):
        profiles.load("smoke")


def test_a_notebook_s_cell_wins_over_the_file():
    profile = profiles.from_notebook({"profile": "smoke", "steps": 7, "unrelated": 1})
    assert profile.steps == 7
    assert profile.batch == profiles.load("smoke").batch


@pytest.fixture
def mine(tmp_path):
    text = profiles.find("smoke").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("profile: smoke", "profile: mine"), encoding="utf-8")
    return path


def test_a_profile_of_one_s_own_is_found_by_path_and_by_name(mine, monkeypatch):
    assert profiles.load(str(mine), steps=7).values() == (
        profiles.load("smoke").values() | {"profile": "mine", "steps": 7}
    )
    with pytest.raises(InputError, match="there is no profile 'mine'"):
        profiles.load("mine")
    monkeypatch.setattr(paths, "OWN_PROFILES", mine.parent)
    assert profiles.load("mine").profile == "mine"
    assert {"mine", "smoke"} <= set(profiles.names())


def test_a_model_s_folder_is_found_from_the_profile_s_place(mine, monkeypatch):
    """Notebooks are executed in another folder than the one from which a run is called."""
    (mine.parent / "models" / "llama").mkdir(parents=True)
    text = mine.read_text(encoding="utf-8")
    mine.write_text(text.replace("model: smollm2-135m", "model: models/llama"), encoding="utf-8")
    assert profiles.load(str(mine)).model == str(mine.parent / "models" / "llama")
    monkeypatch.chdir(mine.parent)
    assert profiles.load("smoke", encoder="./models").encoder == str(mine.parent / "models")
    assert profiles.load("smoke").encoder == "whisper-base"


def test_a_copy_that_would_write_over_the_original_s_results_is_refused(mine):
    copy = mine.with_name("copy.yaml")
    copy.write_text(mine.read_text())
    with pytest.raises(InputError, match="write profile: copy"):
        profiles.load(str(copy))


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no profile file .*nope\.yaml"):
        profiles.load(str(tmp_path / "nope.yaml"))
