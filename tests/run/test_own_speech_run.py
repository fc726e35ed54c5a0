"""Recordings and a model of one's own: from the profile in the docs to the report's tables."""

import csv
import io
from collections import Counter

import hub_files
import nbformat
import numpy as np
import pytest
import soundfile
import tiny_paper
import yaml

from kappa_lib import paths, profiles
from kappa_lib.evidence import claims, report
from kappa_lib.evidence.runs import runs
from kappa_lib.run import stages
from kappa_lib.speech import features
from kappa_lib.training.model import SpeechLLM
from kappa_lib.training.trainer import run_config

# Short, for the small tokenizer has a token per letter and a second of speech 12 positions.
TEXTS = ["Null", "Eins", "Zwei", "Drei", "Vier!", "Fünf", "Sechs", "Sieben", "Acht", "Neun"]
TEXTS += ["Zehn", "Elf", "Zwölf"]
CORPUS = "mine"
BAD = {"lang": 31.0, "kurz": 0.05}
SMALL = {k: v for k, v in tiny_paper.SMALL.items() if "utterances" not in k}


def write_recordings(folder):
    """Thirteen usable files of several rates and channels, and one of each unusable kind."""
    folder.mkdir()
    rows = []
    for number, text in enumerate(TEXTS):
        samples, rate = soundfile.read(io.BytesIO(hub_files.sound(1.0 + number / 20, number)))
        stereo = np.stack([samples, samples], 1) if number % 2 else samples
        # The same samples at another rate: what is heard is a semitone away, and as good.
        soundfile.write(folder / f"{number}.wav", stereo, rate + 1000 * (number % 3))
        rows.append([f"{number}.wav", text, number % 3])
    for name, seconds in BAD.items():
        (folder / f"{name}.flac").write_bytes(hub_files.sound(seconds, 1))
        rows.append([f"{name}.flac", f"Das ist {name}", 0])
    (folder / "kaputt.wav").write_bytes(b"RIFF and nothing more")
    (folder / "stumm.flac").write_bytes(hub_files.sound(1.0, 2))
    rows += [["kaputt.wav", "Das ist kaputt", 0], ["stumm.flac", "", 0]]
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["file_name", "gesagt", "speaker"], *rows])
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    tiny_paper.llama().save_pretrained(root / "llama")
    tiny_paper.tokenizer().save_pretrained(root / "llama")
    tiny_paper.whisper().save_pretrained(root / "whisper")
    write_recordings(root / "meine Aufnahmen: 2026")
    return root


def shown() -> dict:
    """The profile that the docs show."""
    text = (paths.ROOT / "docs" / "own-speech.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])


def write_profile(path, **values) -> str:
    """The docs' profile with other values; its path."""
    path.write_text(yaml.safe_dump(shown() | {"profile": path.stem} | values), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def _places(root, monkeypatch):
    tiny_paper.places(monkeypatch, root)


@pytest.fixture(scope="module")
def run(root):
    """The whole path once, for the tests below to look at."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_paper.places(patch, root)
        speech = {"folder": "meine Aufnahmen: 2026", "language": "de", "text": "gesagt"}
        own = {"corpora": {CORPUS: speech}, "model": "llama", "encoder": "whisper"}
        counts = {"train_utterances": {CORPUS: 14}, "test_utterances": {CORPUS: 4}}
        profile = profiles.load(write_profile(root / "mine.yaml", **SMALL, **own, **counts))
        bench, arms = stages.prepare(profile)
        table = stages.train_all(bench, arms)
    return profile, bench, arms, table


def test_the_profile_in_the_docs_is_complete_and_begins_at_its_own_folder(tmp_path):
    (tmp_path / "recordings").mkdir()
    profile = profiles.load(write_profile(tmp_path / "mine.yaml"))
    assert profile.profile == "mine"
    assert profile.corpora[CORPUS]["folder"] == str(tmp_path / "recordings")
    laptop = profiles.load("laptop")
    same = set(shown()) - {"profile", "corpora", "train_utterances", "test_utterances"}
    different = {key for key in same if getattr(profile, key) != getattr(laptop, key)}
    assert different == {"max_new_tokens"}


@pytest.mark.slow
def test_every_arm_is_trained_and_scored_on_the_recordings(run):
    profile, bench, arms, table = run
    assert profile.folder.name == "mine"
    assert list(dict.fromkeys(table["arm"])) == list(arms) == ["selected", "inverse"]
    assert (table[f"wer_{CORPUS}"] == table["wer_mean"]).all()
    assert len(bench.data.texts) == len(TEXTS) - 4
    (test,) = bench.data.tests
    assert (test.language, len(test.ids)) == ("de", 4)
    assert sorted([*bench.data.texts, *test.texts]) == sorted(TEXTS)


@pytest.mark.slow
def test_a_folder_of_few_recordings_goes_through_the_notebooks(root, tmp_path, monkeypatch):
    folder = hub_files.sound_folder(tmp_path / "few", TEXTS[:4])
    own = {"corpora": {CORPUS: {"folder": str(folder), "language": "de", "text": "text"}}}
    own |= {"train_utterances": {CORPUS: 2}, "test_utterances": {CORPUS: 2}, "eval_every": 2}
    own |= {"model": str(root / "llama"), "encoder": str(root / "whisper")}
    own |= {"batch": 2, "warm_batch": 2}
    written = write_profile(tmp_path / "few.yaml", **{**SMALL, **own})
    values = profiles.load(written).model_dump()
    monkeypatch.chdir(paths.NOTEBOOKS)
    for name in ("04_selected_vs_inverse", "05_wer_over_training"):
        names = {**values, "profile": written}
        for cell in nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code" and cell["id"] != "parameters":
                source = cell.source.removeprefix("%%capture\n")
                exec(compile(source, f"{name}:{cell['id']}", "exec"), names)
    found = {claim.id: claim.verdict for claim in claims.load(paths.results("few"))}
    # One seed of a tiny model: nothing is decided, and nothing of the committed model's is told.
    for claim in ("selected-beats-inverse", "selected-falls", "new-modality", "new-text-task"):
        assert found[claim] == "not testable here", claim


@pytest.mark.slow
def test_what_was_left_out_is_counted_in_the_report(run):
    profile, bench, *_ = run
    left_out = bench.data.left_out[CORPUS]
    assert Counter(left_out["train"]) + Counter(left_out["test"]) == {
        "longer than 30 s": 1,
        "shorter than 0.1 s": 1,
        "not readable": 1,
        "empty transcript": 1,
    }
    assert runs(profile).split("left_out") == bench.data.left_out
    written = report.write(profile).read_text(encoding="utf-8")
    (said,) = [line for line in written.splitlines() if line.startswith("Rows left out")]
    for reason in ("longer than 30 s", "shorter than 0.1 s", "not readable", "empty transcript"):
        assert f"1 of `{CORPUS}`" in said
        assert f"({reason})" in said
    assert f"Training utterances: 9 {CORPUS} (14 asked for)" in written
    assert f"| WER {CORPUS}, % | mean, % |" in written
    assert f"Whisper basic for {CORPUS}" in written


@pytest.mark.slow
def test_a_second_call_trains_nothing_until_something_changes(run, root, monkeypatch):
    profile, bench, arms, table = run
    monkeypatch.setattr(SpeechLLM, "forward", None)
    assert stages.train_all(bench, arms).equals(table)
    split = (profile.folder / "split.json").read_text(encoding="utf-8")
    assert features.load(profile).key == bench.data.key
    path = root / "meine Aufnahmen: 2026" / "0.wav"
    before = path.read_bytes()
    path.write_bytes(hub_files.sound(1.0, 77))  # the same text, said otherwise
    changed = features.load(profile)
    path.write_bytes(before)
    assert sorted(changed.ids) == sorted(bench.data.ids)
    english = {CORPUS: {**profile.corpora[CORPUS], "language": "en"}}
    told = features.load(profile.model_copy(update=dict(corpora=english)))
    assert (told.tests[0].language, told.texts) == ("en", bench.data.texts)
    (profile.folder / "split.json").write_text(split, encoding="utf-8")
    assert len({changed.key, told.key, bench.data.key}) == 3
    weights = root / "whisper" / "model.safetensors"
    config, content = run_config(bench, arms["selected"], 0), weights.read_bytes()
    weights.write_bytes(content + b"trained further")
    assert run_config(bench, arms["selected"], 0) != config
    weights.write_bytes(content)
