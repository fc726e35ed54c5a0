"""The two long stages of a profile: what training needs, then every arm of every seed."""

import pandas as pd

from kappa_lib.evidence.runs import runs
from kappa_lib.files import alone, write_text
from kappa_lib.profiles import Profile
from kappa_lib.spectra import scan, selection
from kappa_lib.spectra.selection import Selection
from kappa_lib.speech import features
from kappa_lib.training import text_task
from kappa_lib.training.experiment import Experiment
from kappa_lib.training.text_task import TextExperiment
from kappa_lib.training.trainer import record_spectral_change, train
from kappa_lib.weights import models


def prepare(profile: Profile) -> tuple[Experiment, dict[str, Selection]]:
    """Encode the speech (or read the text), measure κ, make the selections and load the model.

    Returns:
        What the runs share: model, data and evaluation; and the arms by name.
    """
    # Another process may prepare the same, to train other arms on another GPU.
    with alone(profile.folder, "preparing", wait=True):
        models.weights(profile.model)
        # Before the data: it takes seconds, and may refuse an arm.
        arms = selection.select_stage(profile, scan.scan_stage(profile))
        speech = profile.task == "speech"
        data = features.load(profile) if speech else text_task.load(profile)
    return Experiment(profile, data) if speech else TextExperiment(profile, data), arms


def train_all(experiment: Experiment, arms: dict[str, Selection]) -> pd.DataFrame:
    """Train every arm of every seed, going on where an earlier call stopped.

    Returns:
        The evaluations of :class:`kappa_lib.evidence.runs.Runs`, which it also leaves as
        ``metrics.csv`` in the profile's folder.
    """
    for seed in experiment.profile.seeds:
        for arm in arms:
            chosen = selection.of_run(experiment.profile, arm, seed)
            train(experiment, chosen, seed)
            if experiment.profile.spectra:
                record_spectral_change(experiment, chosen, seed)
    table = runs(experiment.profile).evaluations
    write_text(experiment.profile.folder / "metrics.csv", table.to_csv(index=False))
    return table
