"""Fine-tuning one arm with one seed, and what that did to its tensors."""

import math
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from torch import nn

from kappa_lib import provenance
from kappa_lib.errors import KappaError
from kappa_lib.files import alone, fingerprint, write_text
from kappa_lib.profiles import SMOOTHED, Profile
from kappa_lib.progress import Progress
from kappa_lib.spectra.kappa_table import layer_of, types_of
from kappa_lib.spectra.selection import Selection
from kappa_lib.spectra.spectrum import spectral_change
from kappa_lib.training import optim
from kappa_lib.training.checkpoints import RunState, read_metrics, run_folder
from kappa_lib.training.experiment import EVAL_KEYS, WARM_KEYS, Experiment
from kappa_lib.training.model import gradient_checkpointing

# Keys of a profile that no run's numbers depend on, or that "arm", "seed", "tensors", "split" and,
# of an arm that has one, "lora" of its config stand for.
_NOT_OF_A_RUN = {"profile", "device", "share", "arms", "seed", "seeds", "spectra"}
_NOT_OF_A_RUN |= {"train_utterances", "test_utterances", "corpora", "lora"}


def settings(profile: Profile) -> dict[str, Any]:
    """What of a profile decides a run; later settings only where they are not at their default,
    so that earlier runs stay the same runs."""
    return profile.model_dump(exclude_defaults=True, exclude=_NOT_OF_A_RUN)


def run_config(experiment: Experiment, selection: Selection, seed: int) -> dict[str, Any]:
    """Everything that decides a run's metrics."""
    own = experiment.profile.lora.get(selection.arm)
    return {
        **experiment.describe(*WARM_KEYS, *EVAL_KEYS),
        **settings(experiment.profile),
        "arm": selection.arm,
        "tensors": fingerprint(selection.tensors),
        "parameters": selection.parameters,
        "seed": seed,
        **({"lora": own.model_dump()} if own else {}),
    }


class _Learner:
    """One arm's model with its optimiser, the step that changes them, and the order of the data."""

    def __init__(self, experiment: Experiment, selection: Selection, seed: int) -> None:
        profile, data = experiment.profile, experiment.data
        self.profile, self.data = profile, data
        self.peak = profile.arm_lr.get(selection.arm, profile.lr)
        self.model = experiment.speech_llm(seed, selection)
        self.named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        of_rate: dict[float, list[nn.Parameter]] = {}
        for name, p in self.named.items():
            of_rate.setdefault(experiment.rates.get(name.removeprefix("llm."), 1.0), []).append(p)
        groups = [{"params": trained, "over": rate} for rate, trained in of_rate.items()]
        self.optimiser = optim.adamw(groups, self.peak, self.model.llm.device)
        self._items = data.first(profile.tune_utterances)
        lengths = [len(data.features[i]) for i in self._items]
        self._plan = optim.batch_plan(lengths, profile.batch, profile.steps, seed)

    def step(self, number: int) -> float:
        """Take one step, numbered from 0, and return its training loss in nats per token;
        KappaError where that is not finite."""
        rate = optim.rate(self.profile.schedule, number, self.profile.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * rate * group["over"]
        batch = [self._items[k] for k in self._plan[number]]
        features, texts = ([of[i] for i in batch] for of in (self.data.features, self.data.texts))
        with gradient_checkpointing(self.model.llm):
            loss, _ = self.model(features, texts)
        value = loss.item()
        if not math.isfinite(value):
            raise KappaError(f"the training loss became {value}", "lower the profile's lr")
        loss.backward()
        nn.utils.clip_grad_norm_(self.named.values(), optim.CLIP)
        self.optimiser.step()
        # Now rather than before the next step: an evaluation needs their memory.
        self.optimiser.zero_grad()
        return value


def train(
    experiment: Experiment,
    selection: Selection,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Fine-tune one arm of one seed, or go on where it stopped, and return its metrics.

    The tensors of ``selection`` train beside the adaptor; ``seed`` is that of the adaptor's
    initialisation and of the order of utterances. ``on_step`` is called after each step with their
    number.

    Raises:
        KappaError: the loss is not finite.
        InputError: another process trains this run.
    """
    config = run_config(experiment, selection, seed)
    run = RunState(run_folder(experiment.profile, selection.arm, seed), config)
    with alone(experiment.profile.folder, run.folder.name):
        if not run.is_finished():
            start = experiment.warm_start(seed)
            learner = _Learner(experiment, selection, seed)
            _descend(experiment, learner, run, start, on_step or (lambda _: None))
            run.finish(learner.named, _origin(selection, learner, run))
    return read_metrics(run.folder)


def _descend(
    experiment: Experiment,
    learner: _Learner,
    run: RunState,
    start: dict[str, Any],
    on_step: Callable[[int], None],
) -> None:
    """Take the steps that are left of a run; its last evaluation leaves no checkpoint."""
    profile = experiment.profile
    first = run.resume(learner.named, learner.optimiser)
    if first is None:
        run.start()
        run.record(0, profile.batch, 0.0, None, start)
        first = 0
    measured = read_metrics(run.folder)
    seconds, losses, clock = measured[-1]["seconds"], [], time.perf_counter()
    lowest = min((row["train_loss"] for row in measured[1:]), default=math.inf)
    with Progress(f"training {run.folder.name}", profile.steps, first) as progress:
        for step in range(first, profile.steps):
            losses.append(learner.step(step))
            pace = len(losses) / (time.perf_counter() - clock)
            progress.update(note=f"loss {losses[-1]:.3f}, {pace:.2f} steps/s")

            done = step + 1
            recent = losses[-SMOOTHED:] if profile.stop_loss else losses
            mean = sum(recent) / len(recent)
            smooth = len(losses) >= SMOOTHED
            passed = smooth and any(mean <= level < lowest for level in profile.levels)
            last = (smooth and mean <= profile.stop_loss) or done == profile.steps
            if last or passed or done % profile.eval_every == 0:
                seconds += time.perf_counter() - clock
                run.record(done, profile.batch, seconds, mean, experiment.evaluate(learner.model))
                if not last:
                    run.save(done, learner.named, learner.optimiser)
                lowest, losses, clock = min(lowest, mean), [], time.perf_counter()
            on_step(done)
            if last:
                return


def _origin(selection: Selection, learner: _Learner, run: RunState) -> dict[str, Any]:
    """Where a run comes from, for its ``provenance.json``."""
    last, device = read_metrics(run.folder)[-1], learner.model.llm.device
    on_gpu = device.type == "cuda"
    return {
        **provenance.describe(device),
        "seconds_per_step": last["seconds"] / last["step"],
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else None,
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
    if path.is_file():
        return
    before = dict(experiment.reload().named_parameters())
    kinds = types_of(before)
    with safe_open(folder / RunState.MODEL, framework="pt") as after:
        for name in Progress("spectra", items=selection.tensors):
            old = before[name]
            change = spectral_change(old, after.get_tensor(f"llm.{name}").to(old.device))
            rows.append({"tensor": name, "type": kinds[name], "layer": layer_of(name)} | change)
    write_text(path, pd.DataFrame(rows).to_csv(index=False))
