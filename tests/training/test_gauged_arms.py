"""Arms that are trained in another gauge: the same start in every bit, other steps."""

import pytest
import tiny

from kappa_lib.run import stages
from kappa_lib.spectra import gauge
from kappa_lib.training import evaluation
from kappa_lib.training.trainer import train

ARMS = {
    "dose": {"of": "selected", "dose": 4},
    "rms": {"of": "selected", "dose": 4, "rms": True},
    "flipped": {"of": "selected", "flip": True},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Arm → its selection, and what its run measured at each evaluation."""
    folder = tmp_path_factory.mktemp("gauged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAPPA_RESULTS", str(folder / "results"))
        patch.setattr(evaluation, "WINDOW", tiny.WINDOW)
        profile = tiny.profile(
            tiny.save_model(folder / "llama"),
            task="vowels",
            arms=["selected", *ARMS],
            gauge=ARMS,
            train_utterances={"de_open": 40, "en_open": 40},
            test_utterances={"de_open": 3, "en_open": 3},
            steps=2,
            spectra=False,
        )
        experiment, arms = stages.prepare(profile)
        return arms, {arm: train(experiment, chosen, 0) for arm, chosen in arms.items()}


def test_all_start_as_the_original_and_go_elsewhere(trained):
    _, found = trained
    starts = [(rows[0]["heldout"], rows[0]["kl"]) for rows in found.values()]
    assert starts == [(found["selected"][0]["heldout"], 0.0)] * len(starts)
    assert len({rows[-1]["heldout_loss"] for rows in found.values()}) == len(found)
    assert all(rows[-1]["kl"] > 0 for rows in found.values())


def test_matched_steps_move_the_function_less_than_unmatched(trained):
    _, found = trained
    assert found["rms"][-1]["kl"] < found["dose"][-1]["kl"]


def test_a_dose_trains_the_same_tensors_and_a_flip_those_of_the_flipped_model(trained):
    chosen, _ = trained
    assert chosen["dose"].tensors == chosen["rms"].tensors == chosen["selected"].tensors
    assert any(".mlp." in name for name in chosen["selected"].tensors)
    llm = tiny.llama()
    gauge.flip(llm)
    flipped = set(chosen["flipped"].tensors)
    assert flipped != set(chosen["selected"].tensors)
    assert sum(".mlp." in n for n in flipped) < sum(
        ".mlp." in n for n in chosen["selected"].tensors
    )
