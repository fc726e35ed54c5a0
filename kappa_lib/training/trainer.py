"""Fine-tuning one arm with one seed, and what that did to its tensors.

With several processes each takes its part of every batch and of every evaluation; the main one
alone writes.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from safetensors import safe_open
from torch import nn
from torch.optim import Optimizer

from kappa_lib import distributed, provenance
from kappa_lib.errors import InputError, KappaError
from kappa_lib.files import fingerprint, replacing, write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import Progress, track
from kappa_lib.spectra import gauge
from kappa_lib.spectra.kappa_table import layer_of, types_of
from kappa_lib.spectra.selection import Selection
from kappa_lib.spectra.spectrum import spectral_change
from kappa_lib.training import optim, parallel
from kappa_lib.training.checkpoints import RunState, run_folder
from kappa_lib.training.experiment import EVAL_KEYS, WARM_KEYS, Experiment
from kappa_lib.training.precision import gradient_checkpointing

# Steps over which a loss is averaged before it stops a run; an evaluation begins anew.
SMOOTHED = 20


def run_config(experiment: Experiment, selection: Selection, seed: int) -> dict[str, Any]:
    """Everything that decides a run's metrics."""
    return {
        **experiment.describe(*WARM_KEYS, *EVAL_KEYS, "steps", "batch", "lr", "eval_every"),
        **experiment.profile.added(),
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
        InputError: evaluations are too close for a loss to be smoothed between them.
        KappaError: the loss is not finite.
    """
    profile, data, accelerator = experiment.profile, experiment.data, experiment.accelerator
    level = profile.stop_loss
    if level > 0 and profile.eval_every < SMOOTHED:
        raise InputError(
            f"eval_every: {profile.eval_every}: a run that stops at a loss needs {SMOOTHED} steps"
            " between evaluations, over which the loss is smoothed",
            f"give at least {SMOOTHED}, or stop_loss: 0",
        )
    config = run_config(experiment, selection, seed)
    state = RunState(run_folder(profile, selection.arm, seed), config)
    if distributed.broadcast(state.is_finished()):
        return state.metrics()

    start = experiment.warm_start(seed)
    model = experiment.speech_llm(seed, selection)
    trained = [p for p in model.parameters() if p.requires_grad]
    peak = profile.peak(selection.arm)
    if profile.gauge.get(selection.arm, {}).get("rms"):
        names = {f"llm.{name}": 1 / gauge.rms_inverse(axes) for name, axes in experiment.factors.items()}
        trained = [
            {"params": [p], "scale": names[name]}
            for name, p in model.named_parameters()
            if p.requires_grad
        ]
    optimiser = optim.make(profile.optimiser, trained, peak, accelerator.device)
    forward, wrapped = accelerator.prepare(model, optimiser)
    optimiser = wrapped.optimizer
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    resumed = state.resume(named, optimiser)
    distributed.barrier()
    if resumed is None:
        state.start()
        state.record(0, 0, 0.0, None, start)
    distributed.barrier()
    first = profile.steps if _has_stopped(state.metrics(), level) else resumed or 0
    items = data.first(profile.tune_utterances)
    lengths = [len(data.features[i]) for i in items]
    plan = optim.batch_plan(lengths, profile.batch, profile.steps, seed)

    seconds, losses, clock = state.metrics()[-1]["seconds"], [], time.perf_counter()
    with Progress(f"training {state.folder.name}", profile.steps, first) as progress:
        for step in range(first, profile.steps):
            for group in optimiser.param_groups:
                rate = optim.rate(profile.schedule, step, profile.steps)
                group["lr"] = peak * rate * group.get("scale", 1.0)

            batch = [items[k] for k in plan[step]]
            part = [batch[i] for i in distributed.shard(profile.batch)]
            features, texts = [data.features[i] for i in part], [data.texts[i] for i in part]
            with gradient_checkpointing(model.llm):
                loss, tokens = forward(features, texts)
            # Gradients are averaged over processes; weighed so, that is the mean over tokens.
            whole = sum(len(model.targets(data.texts[i])) for i in batch)
            loss = loss * (tokens / whole * distributed.world_size())
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
            if not math.isfinite(losses[-1]):
                raise KappaError(f"the training loss became {losses[-1]}", "lower the profile's lr")

            accelerator.backward(loss)
            accelerator.clip_grad_norm_(named.values(), optim.CLIP)
            optimiser.step()
            # Now rather than before the next step: an evaluation needs their memory.
            optimiser.zero_grad(set_to_none=True)
            pace = len(losses) / (time.perf_counter() - clock)
            progress.update(note=f"loss {losses[-1]:.3f}, {pace:.2f} steps/s")

            done = step + 1
            recent = losses[-SMOOTHED:] if level > 0 else losses
            mean = sum(recent) / len(recent)
            learned = level > 0 and len(losses) >= SMOOTHED and mean <= level
            stop = done == profile.steps or learned
            if done % profile.eval_every == 0 or stop:
                seconds += time.perf_counter() - clock
                found = experiment.evaluate(model)
                state.record(done, done * profile.batch, seconds, mean, found)
                state.save(done, named, optimiser)
                losses, clock = [], time.perf_counter()
            if on_step:
                on_step(done)
            if stop:
                break

    _finish(experiment, selection, state, named, optimiser)
    return state.metrics()


def _has_stopped(rows: list[dict[str, Any]], level: float) -> bool:
    """Whether a run's last evaluation was where it stopped: it was killed before its end."""
    return (
        level > 0
        and len(rows) > 1
        and rows[-1]["step"] - rows[-2]["step"] >= SMOOTHED
        and rows[-1]["train_loss"] <= level
    )


def _finish(
    experiment: Experiment,
    selection: Selection,
    state: RunState,
    named: dict[str, nn.Parameter],
    optimiser: Optimizer,
) -> None:
    """Note where the run comes from, keep its tensors, and let go of the model's wrapping."""
    processes = distributed.world_size()
    if distributed.is_main_process():
        last = state.metrics()[-1]
        # Before the model file, whose presence is what marks a run as finished.
        write_json(
            state.folder / "provenance.json",
            {
                **provenance.describe(experiment.llm.device),
                "processes": processes,
                "parallel": experiment.profile.parallel if processes > 1 else None,
                "sharded": parallel.is_sharded(experiment.accelerator),
                "seconds_per_step": last["seconds"] / last["step"],
                "peak_gib": parallel.peak_gib(experiment.accelerator.device),
                "optimiser": type(optimiser).__name__,
                "trainable_llm": selection.parameters,
                "trainable_all": sum(p.numel() for p in named.values()),
            },
        )
    state.finish(named)
    experiment.accelerator.free_memory()
    distributed.barrier()


def record_spectral_change(experiment: Experiment, selection: Selection, seed: int) -> None:
    """Compare a finished run's tensors with those it began from, unless that has been done.

    Leaves ``spectra.csv`` in the run's folder: a row a tensor with ``tensor``, ``type``, ``layer``
    and the columns of :func:`kappa_lib.spectra.spectrum.spectral_change`. Several processes share
    the tensors.
    """
    folder = run_folder(experiment.profile, selection.arm, seed)
    path = folder / "spectra.csv"
    if distributed.broadcast(path.is_file()):
        return
    experiment.restore()
    before = dict(experiment.llm.named_parameters())
    kinds, rows = types_of(before), {}
    with safe_open(folder / RunState.MODEL, framework="pt") as after:
        for number in track(distributed.shard(len(selection.tensors)), "spectra"):
            name = selection.tensors[number]
            old = before[name]
            change = spectral_change(old, after.get_tensor(f"llm.{name}").to(old.device))
            rows[number] = {"tensor": name, "type": kinds[name], "layer": layer_of(name)} | change
    table = pd.DataFrame(distributed.all_gather(rows))
    if distributed.is_main_process():
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)
    distributed.barrier()


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
