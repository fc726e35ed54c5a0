import json
import shutil
from contextlib import redirect_stderr

import pandas as pd
import pytest
import tiny
import torch

from kappa_lib.encoding import study
from kappa_lib.encoding.study import Settings, Study, of_texts
from kappa_lib.errors import InputError
from kappa_lib.text import bundled_text
from kappa_lib.training.evaluation import KINDS

WINDOWS = Settings(input_windows=2, input_length=16, blocks=3, length=8)
SMALL = {"input_windows": 4, "input_length": 32, "blocks": 2, "length": 8}


def whole(kind):
    return tiny.tokenizer()(bundled_text(kind), add_special_tokens=False)["input_ids"]


def test_text_windows_lie_where_they_should_and_predict_the_next_token():
    found = of_texts(tiny.tokenizer(), WINDOWS)
    ids = whole("german")
    (read,) = found.inputs
    assert read.labels == [kind for kind in KINDS for _ in range(2)]
    assert read.inputs["input_ids"][2:4].flatten().tolist() == ids[:32]
    assert len(found.blocks) == 3
    ((block,), *_) = found.blocks[1:]
    assert block.labels == list(KINDS)
    assert block.inputs["input_ids"][1].tolist() == ids[32 + 9 : 32 + 17]
    assert block.targets[1].tolist() == ids[32 + 10 : 32 + 18]


def test_windows_begin_with_the_token_that_a_tokenizer_begins_texts_with():
    class Beginning:
        """The default tokenizer, but with a token at the beginning of a text."""

        inner = tiny.tokenizer()

        def __call__(self, text, add_special_tokens=True):
            found = self.inner(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [7] * add_special_tokens + found}

    plain, begun = (of_texts(t, WINDOWS) for t in (tiny.tokenizer(), Beginning()))
    for before, after in zip(
        plain.inputs + plain.two_blocks, begun.inputs + begun.two_blocks, strict=True
    ):
        given = after.inputs["input_ids"]
        assert (given[:, 0] == 7).all()
        assert torch.equal(given[:, 1:], before.inputs["input_ids"])
        assert torch.equal(after.targets, before.targets)


def test_no_token_is_read_twice():
    with pytest.raises(InputError, match="ask for fewer windows"):
        of_texts(tiny.tokenizer(), Settings(input_windows=1000))
    count = min(len(whole(kind)) for kind in KINDS)
    fits = Settings(1, 16, (count - 16) // 9, 8)
    assert len(of_texts(tiny.tokenizer(), fits).blocks) == fits.blocks
    with pytest.raises(InputError, match="ask for fewer windows"):
        of_texts(tiny.tokenizer(), Settings(1, 16, fits.blocks + 1, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with open(out / "progress", "w") as stream, redirect_stderr(stream):
        Study(Settings(model=str(folder), **SMALL), out).run()
    return out


def test_the_measurement_is_reported_to_its_end(finished):
    lines = (finished / "progress").read_bytes().decode().split("\n")
    ended = [line.rpartition("\r")[2] for line in lines]
    (told,) = [line for line in ended if line.startswith("information: ")]
    assert told.split("| ")[1].split()[0] == "2/2"


def test_the_table_has_every_tensor_of_the_layers(finished):
    tensors = pd.read_csv(finished / "tensors.csv")
    assert len(tensors) == 14
    assert tensors["effective_rank_share"].between(0, 1).all()
    assert tensors[["knn_entropy", "invariant_kappa"]].notna().all(axis=None)
    assert (tensors[["volume_loss", "deficit", "input_kappa", "gradient"]] > 0).all(axis=None)
    assert tensors.sort_values("kappa")["kappa_reversed"].is_monotonic_decreasing
    facts = json.loads((finished / "facts.json").read_text())
    assert facts["settings"]["blocks"] == 2
    assert set(facts["texts"]) == {"english", "german", "technical"}


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(folder, finished, tmp_path):
    shutil.copytree(finished / "rows", tmp_path / "rows")
    for path in sorted((tmp_path / "rows").iterdir())[::2]:
        path.unlink()
    Study(Settings(model=str(folder), **SMALL), tmp_path).run()
    kept = (finished / "tensors.csv").read_bytes()
    assert (tmp_path / "tensors.csv").read_bytes() == kept


def test_nothing_is_computed_twice(folder, finished, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("measured again")

    for name in ("input_moments", "gradients"):
        monkeypatch.setattr(study, name, refuse)
    before = (finished / "tensors.csv").read_bytes()
    Study(Settings(model=str(folder), **SMALL), finished).run()
    assert (finished / "tensors.csv").read_bytes() == before
