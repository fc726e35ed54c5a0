"""A run of the paper's profile in miniature on a GPU: again, and interrupted."""

import pytest
import tiny_paper
import torch

from kappa_lib.run import stages
from kappa_lib.training import trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Interrupted(Exception):
    """In the middle of a run."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_paper.write(tmp_path_factory.mktemp("paper"))


def metrics(root, monkeypatch, name, dtype, stop=0):
    """Of a run with results of its own, all but its seconds; interrupted after ``stop`` steps."""
    tiny_paper.places(monkeypatch, root, f"{name}-{dtype}")
    profile = tiny_paper.profile(root, device="cuda", dtype=dtype, arms=["selected"])

    def on_step(step):
        if step == stop:
            raise Interrupted

    experiment, arms = stages.prepare(profile)
    if stop:
        with pytest.raises(Interrupted):
            trainer.train(experiment, arms["selected"], 0, on_step)
        experiment, arms = stages.prepare(profile)
    rows = trainer.train(experiment, arms["selected"], 0)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_is_the_same_again_and_after_an_interruption(root, monkeypatch, dtype):
    once = metrics(root, monkeypatch, "once", dtype)
    assert len(once) == 3
    assert metrics(root, monkeypatch, "again", dtype) == once
    assert metrics(root, monkeypatch, "interrupted", dtype, stop=3) == once
