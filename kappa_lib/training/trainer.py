"""Fine-tuning one arm with one seed, and what that did to its tensors.

With several processes the main one alone writes.
"""

import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from safetensors import safe_open

from kappa_lib import distributed, provenance
from kappa_lib.errors import InputError
from kappa_lib.files import alone, fingerprint, replacing
from kappa_lib.profiles import SMOOTHED, Profile
from kappa_lib.progress import Progress, track
from kappa_lib.spectra.kappa_table import layer_of, types_of
from kappa_lib.spectra.selection import Selection
from kappa_lib.spectra.spectrum import spectral_change
from kappa_lib.training import parallel
from kappa_lib.training.checkpoints import RunState, run_folder
from kappa_lib.training.experiment import EVAL_KEYS, WARM_KEYS, Experiment
from kappa_lib.training.learner import Learner

# Keys of a profile that no run's numbers depend on, or that "arm", "seed", "tensors" and "split"
# of its config stand for.
_NOT_OF_A_RUN = {"profile", "device", "share", "arms", "seed", "seeds", "parallel", "spectra"} | {
    "train_utterances",
    "test_utterances",
    "corpora",
}


def settings(profile: Profile) -> dict[str, Any]:
    """What of a profile decides a run; later settings only where they are not at their default,
    so that earlier runs stay the same runs."""
    return profile.model_dump(exclude_defaults=True, exclude=_NOT_OF_A_RUN)


def run_config(experiment: Experiment, selection: Selection, seed: int) -> dict[str, Any]:
    """Everything that decides a run's metrics."""
    return {
        **experiment.describe(*WARM_KEYS, *EVAL_KEYS),
        **settings(experiment.profile),
        "arm": selection.arm,
        "tensors": fingerprint(selection.tensors),
        "parameters": selection.parameters,
        "seed": seed,
    }


def train(
    experiment: Experiment,
    selection: Selection,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Fine-tune one arm of one seed, or go on where it stopped, and return its metrics.

    Args:
        experiment: model, data and evaluation.
        selection: the tensors of the language model to train, beside the adaptor.
        seed: of the adaptor's initialisation and the order of utterances.
        on_step: called with the number of steps done, after each.

    Raises:
        KappaError: the loss is not finite.
        InputError: another process trains this run.
    """
    config = run_config(experiment, selection, seed)
    run = RunState(run_folder(experiment.profile, selection.arm, seed), config)
    with alone(experiment.profile.folder, run.folder.name):
        if not distributed.broadcast(run.is_finished()):
            start = experiment.warm_start(seed)
            learner = Learner(experiment, selection, seed)
            _descend(experiment, learner, run, start, on_step or (lambda _: None))
            run.finish(learner.named, _origin(experiment, selection, learner, run))
            experiment.accelerator.free_memory()
            distributed.barrier()
    return run.metrics()


def _descend(
    experiment: Experiment,
    learner: Learner,
    run: RunState,
    start: dict[str, Any],
    on_step: Callable[[int], None],
) -> None:
    """Take the steps that are left of a run; its last evaluation leaves no checkpoint."""
    profile, level = experiment.profile, experiment.profile.stop_loss
    first = run.begin(learner.named, learner.optimiser, start)
    seconds, losses, clock = run.metrics()[-1]["seconds"], [], time.perf_counter()
    with Progress(f"training {run.folder.name}", profile.steps, first) as progress:
        for step in range(first, profile.steps):
            losses.append(learner.step(step))
            pace = len(losses) / (time.perf_counter() - clock)
            progress.update(note=f"loss {losses[-1]:.3f}, {pace:.2f} steps/s")

            done = step + 1
            recent = losses[-SMOOTHED:] if level else losses
            mean = sum(recent) / len(recent)
            learned = level > 0 and len(losses) >= SMOOTHED and mean <= level
            last = learned or done == profile.steps
            if last or done % profile.eval_every == 0:
                seconds += time.perf_counter() - clock
                run.record(done, profile.batch, seconds, mean, experiment.evaluate(learner.model))
                if not last:
                    run.save(done, learner.named, learner.optimiser)
                losses, clock = [], time.perf_counter()
            on_step(done)
            if last:
                return


def _origin(
    experiment: Experiment, selection: Selection, learner: Learner, run: RunState
) -> dict[str, Any]:
    """Where a run comes from, for its ``provenance.json``."""
    last, processes = run.metrics()[-1], distributed.world_size()
    return {
        **provenance.describe(experiment.accelerator.device),
        "processes": processes,
        "parallel": experiment.profile.parallel if processes > 1 else None,
        "sharded": parallel.is_sharded(experiment.accelerator),
        "seconds_per_step": last["seconds"] / last["step"],
        "peak_gib": parallel.peak_gib(experiment.accelerator.device),
        "optimiser": type(learner.optimiser).__name__,
        "trainable_llm": selection.parameters,
        "trainable_all": sum(p.numel() for p in learner.named.values()),
    }


def record_spectral_change(experiment: Experiment, selection: Selection, seed: int) -> None:
    """Compare a finished run's tensors with those it began from, unless that has been done.

    Leaves ``spectra.csv`` in the run's folder: one row per tensor with ``tensor``, ``type``,
    ``layer`` and the columns of :func:`kappa_lib.spectra.spectrum.spectral_change`.
    """
    folder = run_folder(experiment.profile, selection.arm, seed)
    path, rows = folder / "spectra.csv", []
    if path.is_file() or not distributed.is_main_process():
        return
    before = dict(experiment.reload().named_parameters())
    kinds = types_of(before)
    with safe_open(folder / RunState.MODEL, framework="pt") as after:
        for name in track(selection.tensors, "spectra"):
            old = before[name]
            change = spectral_change(old, after.get_tensor(f"llm.{name}").to(old.device))
            rows.append({"tensor": name, "type": kinds[name], "layer": layer_of(name)} | change)
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def spectral_changes(profile: Profile) -> pd.DataFrame:
    """The ``spectra.csv`` of a profile's runs, one under the other, with ``arm`` and ``seed``.

    Raises:
        InputError: no run has left one.
    """
    runs = [(arm, seed) for arm in profile.arms for seed in profile.seeds]
    paths = {run: run_folder(profile, *run) / "spectra.csv" for run in runs}
    found = {run: pd.read_csv(path) for run, path in paths.items() if path.is_file()}
    if not found:
        raise InputError(
            f"{profile.folder}: no spectra.csv of a run", "set spectra: true and run notebook 04"
        )
    return pd.concat(found, names=["arm", "seed", None]).reset_index(["arm", "seed"])
