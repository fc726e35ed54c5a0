"""Fine-tuning: the warm start of a seed, then one run for each arm of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kappa_lib import models, provenance
from kappa_lib.errors import KappaError
from kappa_lib.evaluation import Forgetting, evaluate, text_fingerprint
from kappa_lib.files import Stage, fingerprint, read_json, replacing, write_json
from kappa_lib.mixed_precision import promote, put_back, recomputing
from kappa_lib.profiles import Profile
from kappa_lib.run_state import RunState, read_metrics
from kappa_lib.schedule import batch_plan, warm_up_and_decay
from kappa_lib.selection import Selection
from kappa_lib.speech_llm import Adaptor, SpeechLLM
from kappa_lib.utterances import Progress, SpeechData
from kappa_lib.warm_start import new_adaptor, warm_start

VERSION = 1  # raise when a change to the code changes what a run computes
CLIP = 1.0
WEIGHT_DECAY = 0.01
_MODEL_KEYS = ("model", "encoder", "dtype")
_WARM_KEYS = (*_MODEL_KEYS, "warm_steps", "warm_batch", "warm_lr")
_EVAL_KEYS = ("max_new_tokens", "text_tokens")
_RUN_KEYS = (*_WARM_KEYS, *_EVAL_KEYS, "steps", "batch", "lr", "eval_every")


class Bench:
    """A profile's model, data and evaluation, loaded once and shared by its runs.

    The language model's original weights are kept, so that every run starts from them.
    """

    def __init__(
        self, profile: Profile, data: SpeechData, progress: Progress | None = None
    ) -> None:
        self.profile, self.data, self.progress = profile, data, progress
        self.llm, self.tokenizer = models.load(profile.model, profile.dtype, profile.device)
        # CUDA has no deterministic backward pass of the CTC loss; there a warning has to do.
        torch.use_deterministic_algorithms(True, warn_only=self.llm.device.type == "cuda")
        self.forgetting = Forgetting(self.llm, self.tokenizer, profile.text_tokens)
        self.original: dict[str, torch.Tensor] = {}

    def adaptor(self, seed: int) -> Adaptor:
        """A new adaptor of this seed, on the model's device."""
        table = self.llm.get_input_embeddings().weight
        return new_adaptor(self.data.features[0].shape[1], table, seed).to(table.device)

    def speech_llm(self, seed: int, selection: Selection | None = None) -> SpeechLLM:
        """The original language model with a warm-started adaptor, the selection unfrozen."""
        self.restore()
        adaptor = self.adaptor(seed)
        adaptor.load_state_dict(load_file(_warm_path(self.profile, seed)))
        model = SpeechLLM(self.llm, self.tokenizer, adaptor)
        names = selection.tensors if selection else []
        chosen = model.unfreeze(names)
        pairs = zip(names, chosen, strict=True)
        self.original = {n: p.detach().to("cpu", copy=True) for n, p in pairs}
        promote(chosen)
        return model

    def restore(self) -> None:
        """Put back the weights that the last run changed."""
        parameters = dict(self.llm.named_parameters())
        for name, value in self.original.items():
            put_back(parameters[name], value)
        self.original = {}

    def tell(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report progress to whoever listens."""
        if self.progress:
            self.progress(what, done, total, note)

    def describe(self, *keys: str) -> dict[str, Any]:
        """What decides a result: the named settings, the weights, the data, this code's version."""
        return {
            **self.profile.values(*keys),
            "weights": models.identity(self.profile.model),
            "split": self.data.key,
            "general_text": text_fingerprint(self.forgetting.windows),
            "version": VERSION,
        }


def _warm_path(profile: Profile, seed: int) -> Path:
    return profile.folder / "warm" / f"seed{seed}.safetensors"


def warm(bench: Bench, seed: int) -> dict[str, Any]:
    """The warm-started adaptor of a seed and its evaluation, from which every arm starts.

    Returns:
        The metrics of step 0: the same for every arm, so measured once.
    """
    profile = bench.profile
    path, evaluation = _warm_path(profile, seed), profile.folder / "warm" / f"seed{seed}.json"
    stage = Stage(
        f"warm-seed{seed}",
        profile.folder,
        {**bench.describe(*_WARM_KEYS, *_EVAL_KEYS), "seed": seed},
        [path, evaluation],
    )
    if not stage.done():
        losses = _warm_adaptor(bench, seed, path)
        bench.tell(f"evaluating the start, seed {seed}", 0, 1)
        metrics, rows = evaluate(
            bench.speech_llm(seed), bench.data.tests, bench.forgetting, profile.max_new_tokens
        )
        write_json(evaluation, {"metrics": metrics, "ctc_loss": losses, "transcripts": rows})
        stage.finish()
        bench.tell(f"evaluating the start, seed {seed}", 1, 1)
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
        return {
            **self.bench.describe(*_RUN_KEYS),
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
    done = run.folder / "config.json"
    if state.model_path.is_file() and done.is_file() and read_json(done) == config:
        return read_metrics(run.folder)
    start = warm(bench, seed)
    model = bench.speech_llm(seed, selection)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    # The fused update needs no temporaries as large as the gradients.
    fused = True if bench.llm.device.type == "cuda" else None
    optimiser = torch.optim.AdamW(
        named.values(), lr=bench.profile.lr, weight_decay=WEIGHT_DECAY, fused=fused
    )
    step = state.resume(named, optimiser)
    if step is None:
        step = 0
        state.start()
        _record(run, state, {"step": 0, "utterances": 0, "seconds": 0.0, "train_loss": None}, start)
    write_json(done, config)
    _loop(run, state, model, named, optimiser, step, on_step)
    _finish(run, state, named, optimiser)
    return state.metrics()


def _loop(
    run: Run,
    state: RunState,
    model: SpeechLLM,
    named: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
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
        losses.append(_step(model, named, optimiser, plan[step], data, _rate(profile, step)))
        pace = len(losses) / (time.perf_counter() - clock)
        note = f"loss {losses[-1]:.3f}, {pace:.2f} steps/s"
        run.bench.tell(f"training {run.name}", step + 1, profile.steps, note)
        if (step + 1) % profile.eval_every == 0 or step + 1 == profile.steps:
            seconds += time.perf_counter() - clock
            measured, rows = evaluate(
                model, data.tests, run.bench.forgetting, profile.max_new_tokens
            )
            row = {
                "step": step + 1,
                "utterances": (step + 1) * profile.batch,
                "seconds": round(seconds, 3),
                "train_loss": sum(losses) / len(losses),
            }
            _record(run, state, row, {"metrics": measured, "transcripts": rows})
            state.save(step + 1, named, optimiser)
            losses, clock = [], time.perf_counter()
        if on_step:
            on_step(step + 1)


def _rate(profile: Profile, step: int) -> float:
    return profile.lr * warm_up_and_decay(step, profile.steps)


def _step(
    model: SpeechLLM,
    named: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    items: list[int],
    data: SpeechData,
    rate: float,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    with recomputing(model.llm):
        loss, _ = model.loss([data.features[i] for i in items], [data.texts[i] for i in items])
    if not torch.isfinite(loss):
        raise KappaError(f"the training loss became {loss.item()}", "lower the profile's lr")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(named.values(), CLIP)
    optimiser.step()
    return loss.item()


def _record(run: Run, state: RunState, row: dict[str, Any], measured: dict[str, Any]) -> None:
    name = f"step{row['step']:06d}.json"
    write_json(run.folder / "transcripts" / name, measured["transcripts"])
    state.append({**row, **measured["metrics"]})


def _finish(
    run: Run,
    state: RunState,
    named: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> None:
    rows = state.metrics()
    # Before the model file, whose presence is what marks a run as finished.
    write_json(
        run.folder / "provenance.json",
        {
            **provenance.describe(run.bench.llm.device),
            "seconds_per_step": rows[-1]["seconds"] / rows[-1]["step"],
            "optimiser": type(optimiser).__name__,
            "trainable_llm": run.selection.parameters,
            "trainable_all": sum(p.numel() for p in named.values()),
        },
    )
    state.finish(named)
