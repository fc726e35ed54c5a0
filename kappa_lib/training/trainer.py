"""Fine-tuning: the warm start of a seed, then one run for each arm of it.

With several processes each takes its part of every batch and of every evaluation; the leading
one alone writes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from kappa_lib import distributed, provenance
from kappa_lib.errors import KappaError
from kappa_lib.files import Stage, fingerprint, read_json, replacing, write_json
from kappa_lib.profiles import Profile
from kappa_lib.spectra.selection import Selection
from kappa_lib.training import optim, parallel
from kappa_lib.training.checkpoints import RunState, read_metrics
from kappa_lib.training.evaluation import evaluate
from kappa_lib.training.model import SpeechLLM
from kappa_lib.training.precision import gradient_checkpointing
from kappa_lib.training.schedule import batch_plan, warm_up_and_decay
from kappa_lib.training.warm_start import warm_start
from kappa_lib.training.workbench import Bench, warm_path

CLIP = 1.0
_MODEL_KEYS = ("model", "encoder", "dtype")
_WARM_KEYS = (*_MODEL_KEYS, "warm_steps", "warm_batch", "warm_lr")
_EVAL_KEYS = ("max_new_tokens", "text_tokens")
_RUN_KEYS = (*_WARM_KEYS, *_EVAL_KEYS, "steps", "batch", "lr", "optimiser", "eval_every")


def warm(bench: Bench, seed: int) -> dict[str, Any]:
    """The warm-started adaptor of a seed and its evaluation, from which every arm starts.

    Returns:
        The metrics of step 0: the same for every arm, so measured once.
    """
    profile = bench.profile
    path, evaluation = warm_path(profile, seed), profile.folder / "warm" / f"seed{seed}.json"
    stage = Stage(
        f"warm-seed{seed}",
        profile.folder,
        {**bench.describe(*_WARM_KEYS, *_EVAL_KEYS), "seed": seed},
        [path, evaluation],
    )
    if not distributed.broadcast(stage.done()):
        bench.restore()
        # Small work that nothing is gained from sharing; the evaluation after it is not small.
        losses = _warm_adaptor(bench, seed, path) if distributed.is_main_process() else []
        distributed.barrier()
        bench.tell(f"evaluating the start, seed {seed}", 0, 1)
        metrics, rows = evaluate(
            bench.speech_llm(seed), bench.data.tests, bench.forgetting, profile.max_new_tokens
        )
        if distributed.is_main_process():
            write_json(evaluation, {"metrics": metrics, "ctc_loss": losses, "transcripts": rows})
            stage.finish()
        bench.tell(f"evaluating the start, seed {seed}", 1, 1)
        distributed.barrier()
    return read_json(evaluation)


def _warm_adaptor(bench: Bench, seed: int, path: Path) -> list[float]:
    profile, data = bench.profile, bench.data
    adaptor = bench.adaptor(seed)
    ids = [bench.tokenizer(text, add_special_tokens=False)["input_ids"] for text in data.texts]

    def report(step: int, loss: float) -> None:
        bench.tell(f"warm start, seed {seed}", step, profile.warm_steps, f"CTC loss {loss:.2f}")

    losses = warm_start(
        adaptor,
        bench.llm.get_input_embeddings().weight.detach(),
        data.features,
        ids,
        steps=profile.warm_steps,
        batch=profile.warm_batch,
        lr=profile.warm_lr,
        seed=seed,
        progress=report,
    )
    with replacing(path) as temporary:
        save_file(adaptor.state_dict(), temporary)
    return losses


@dataclass
class Run:
    """One arm of one seed."""

    bench: Bench
    selection: Selection
    seed: int

    @property
    def name(self) -> str:
        return f"{self.selection.arm}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.bench.profile.folder / "runs" / self.name

    def config(self) -> dict[str, Any]:
        """Everything that decides this run's metrics."""
        settings = self.bench.describe(*_RUN_KEYS)
        if settings["optimiser"] == "adamw":
            # Runs from before there was a choice are the same runs.
            del settings["optimiser"]
        return {
            **settings,
            "arm": self.selection.arm,
            "tensors": fingerprint(self.selection.tensors),
            "parameters": self.selection.parameters,
            "seed": self.seed,
        }


def train(
    bench: Bench,
    selection: Selection,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Fine-tune one arm of one seed, or go on where it stopped, and return its metrics.

    Args:
        bench: model and data.
        selection: the tensors of the language model to train, beside the adaptor.
        seed: of the adaptor's initialisation and the order of utterances.
        on_step: called with the number of steps done, after each.
    """
    run = Run(bench, selection, seed)
    config = run.config()
    state = RunState(run.folder, fingerprint(config))
    if distributed.broadcast(_finished(run, state, config)):
        return read_metrics(run.folder)
    start = warm(bench, seed)
    training = _Training(run, bench.speech_llm(seed, selection))
    step = state.resume(training.named, training.optimiser)
    distributed.barrier()
    if step is None and distributed.is_main_process():
        state.start()
        row = {"step": 0, "utterances": 0, "seconds": 0.0, "train_loss": None}
        _record(run, state, row, start)
    if distributed.is_main_process():
        write_json(run.folder / "config.json", config)
    distributed.barrier()
    _loop(run, state, training, step or 0, on_step)
    _finish(run, state, training)
    return state.metrics()


def _finished(run: Run, state: RunState, config: dict[str, Any]) -> bool:
    done = run.folder / "config.json"
    return state.model_path.is_file() and done.is_file() and read_json(done) == config


class _Training:
    """A run's model and optimiser, spread over the processes as the profile says.

    Attributes:
        model: the speech LLM; ``named`` its trained parameters, whole or in shards.
        optimiser: of these.
    """

    def __init__(self, run: Run, model: SpeechLLM) -> None:
        profile, self.accelerator = run.bench.profile, run.bench.accelerator
        self.data, self.model = run.bench.data, model
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = optim.make(profile.optimiser, trained, profile.lr, self.accelerator.device)
        self._forward, wrapped = self.accelerator.prepare(model, optimiser)
        self.optimiser = wrapped.optimizer
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # A run that was interrupted in a step may have left some on the shared model.
        self.optimiser.zero_grad(set_to_none=True)

    def step(self, items: list[int], rate: float) -> float:
        """Update on a batch, of which each process takes its part.

        Returns:
            The loss of the whole batch, in nats a token.

        Raises:
            KappaError: it is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        part = [items[i] for i in distributed.shard(len(items))]
        texts = [self.data.texts[i] for i in part]
        with gradient_checkpointing(self.model.llm):
            loss, tokens = self._forward([self.data.features[i] for i in part], texts)
        # Gradients are averaged over processes; weighed like this that is the mean over tokens.
        whole = sum(len(self.model.targets(self.data.texts[i])) for i in items)
        loss = loss * (tokens / whole * distributed.world_size())
        mean = self.accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(mean):
            raise KappaError(f"the training loss became {mean}", "lower the profile's lr")
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.named.values(), CLIP)
        self.optimiser.step()
        # Now rather than before the next step: an evaluation needs their memory.
        self.optimiser.zero_grad(set_to_none=True)
        return mean

    def release(self) -> None:
        """Let go of the model's wrapping."""
        self.accelerator.free_memory()


def _loop(
    run: Run,
    state: RunState,
    training: _Training,
    first: int,
    on_step: Callable[[int], None] | None,
) -> None:
    profile, data = run.bench.profile, run.bench.data
    plan = batch_plan([len(f) for f in data.features], profile.batch, profile.steps, run.seed)
    seconds = state.metrics()[-1]["seconds"]
    losses: list[float] = []
    run.bench.tell(f"training {run.name}", first, profile.steps)
    clock = time.perf_counter()
    for step in range(first, profile.steps):
        losses.append(training.step(plan[step], _rate(profile, step)))
        pace = len(losses) / (time.perf_counter() - clock)
        note = f"loss {losses[-1]:.3f}, {pace:.2f} steps/s"
        run.bench.tell(f"training {run.name}", step + 1, profile.steps, note)
        if (step + 1) % profile.eval_every == 0 or step + 1 == profile.steps:
            seconds += time.perf_counter() - clock
            with parallel.unsharded(training.model):
                measured, rows = evaluate(
                    training.model, data.tests, run.bench.forgetting, profile.max_new_tokens
                )
            row = {
                "step": step + 1,
                "utterances": (step + 1) * profile.batch,
                "seconds": round(seconds, 3),
                "train_loss": sum(losses) / len(losses),
            }
            if distributed.is_main_process():
                _record(run, state, row, {"metrics": measured, "transcripts": rows})
            state.save(step + 1, training.named, training.optimiser)
            losses, clock = [], time.perf_counter()
        if on_step:
            on_step(step + 1)


def _rate(profile: Profile, step: int) -> float:
    return profile.lr * warm_up_and_decay(step, profile.steps)


def _record(run: Run, state: RunState, row: dict[str, Any], measured: dict[str, Any]) -> None:
    name = f"step{row['step']:06d}.json"
    write_json(run.folder / "transcripts" / name, measured["transcripts"])
    state.append({**row, **measured["metrics"]})


def _finish(run: Run, state: RunState, training: _Training) -> None:
    if distributed.is_main_process():
        last = state.metrics()[-1]
        # Before the model file, whose presence is what marks a run as finished.
        write_json(
            run.folder / "provenance.json",
            {
                **provenance.describe(run.bench.llm.device),
                "processes": distributed.world_size(),
                "parallel": run.bench.profile.parallel if distributed.world_size() > 1 else None,
                "sharded": parallel.is_sharded(training.accelerator),
                "seconds_per_step": last["seconds"] / last["step"],
                "optimiser": type(training.optimiser).__name__,
                "trainable_llm": run.selection.parameters,
                "trainable_all": sum(p.numel() for p in training.named.values()),
            },
        )
    state.finish(training.named)
    training.release()
    distributed.barrier()
