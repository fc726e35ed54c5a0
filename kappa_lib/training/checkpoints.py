"""A training run on disk: one atomic checkpoint, and metrics that agree with it."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from kappa_lib.errors import CheckpointError
from kappa_lib.files import fingerprint, read_json, write_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.weights.safetensors_files import save_tensors


class RunState:
    """Files of one run: ``resume.safetensors`` while it lasts, ``model.safetensors`` after it.

    A checkpoint holds the trainable tensors, the optimiser's states of them, the random state and
    the position, in one file that is replaced atomically. Lines of ``metrics.jsonl`` and
    transcripts later than the checkpoint are dropped on resume and measured again; the last
    evaluation has no checkpoint. ``config`` is everything that decides the run; another run's files
    are ignored.
    """

    MODEL = "model.safetensors"

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder, self.config, self.key = folder, config, fingerprint(config)
        self.model_path = folder / self.MODEL
        self.resume_path = folder / "resume.safetensors"

    def is_finished(self) -> bool:
        """Whether the folder holds the trained tensors of this very configuration."""
        path = self.folder / "config.json"
        known = self.model_path.is_file() and path.is_file()
        return known and read_json(path) == self.config

    def record(
        self,
        step: int,
        batch: int,
        seconds: float,
        train_loss: float | None,
        evaluation: dict[str, Any],
    ) -> None:
        """Add an evaluation after ``step`` steps, of :meth:`.experiment.Experiment.evaluate`.

        ``seconds`` were spent on the steps, evaluations aside; ``train_loss`` is their mean since
        the last evaluation, in nats per token.
        """
        path = self.folder / "transcripts" / f"step{step:06d}.json"
        write_json(path, evaluation["transcripts"])
        row = {
            "step": step,
            "utterances": step * batch,
            "seconds": round(seconds, 3),
            "train_loss": train_loss,
            **evaluation["metrics"],
        }
        self._write_metrics([*read_metrics(self.folder), row])

    def _write_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        write_text(self.folder / "metrics.jsonl", "".join(line + "\n" for line in lines))

    def start(self) -> None:
        """Forget whatever another configuration left in this folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._write_metrics([])
        write_json(self.folder / "config.json", self.config)

    def save(
        self, step: int, named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> None:
        """Write the checkpoint of ``step``; at a SpaceError the previous one stays."""
        tensors = {"random": torch.get_rng_state()}
        for name, parameter in named.items():
            tensors[f"weight/{name}"] = parameter.detach()
            for kind, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{kind}/{name}"] = value
        save_tensors(self.resume_path, tensors, {"step": str(step), "key": self.key})

    def resume(
        self, named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> int | None:
        """Load the checkpoint into parameters and optimiser, and return the step it was written at;
        None where there is none of this configuration. CheckpointError where it is damaged."""
        if not self.resume_path.is_file():
            return None
        try:
            with safe_open(self.resume_path, framework="pt") as stored:
                header = stored.metadata() or {}
                if header.get("key") != self.key:
                    return None
                _restore(stored, named, optimiser)
                torch.set_rng_state(stored.get_tensor("random"))
        except (MemoryError, torch.OutOfMemoryError):
            raise  # the file is whole: nobody should delete it
        except Exception as error:
            raise CheckpointError(
                f"{self.resume_path} cannot be read: {error}", "delete it to start this run anew"
            ) from error
        step = int(header["step"])
        self._write_metrics(row for row in read_metrics(self.folder) if row["step"] <= step)
        for path in (self.folder / "transcripts").glob("*.json"):
            if int(path.stem.removeprefix("step")) > step:
                path.unlink()
        return step

    def finish(self, named: dict[str, nn.Parameter], origin: dict[str, Any]) -> None:
        """Keep the trained tensors, and ``origin`` as ``provenance.json``; the resume file goes,
        but at a SpaceError stays."""
        # Before the model file, whose presence is what marks a run as finished.
        write_json(self.folder / "provenance.json", origin)
        tensors = {name: parameter.detach() for name, parameter in named.items()}
        save_tensors(self.model_path, tensors, {"key": self.key})
        self.resume_path.unlink(missing_ok=True)


@torch.no_grad()
def _restore(stored: Any, named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    for key in set(stored.keys()) - {"random"}:
        kind, _, name = key.partition("/")
        parameter, value = named[name], stored.get_tensor(key)
        if kind == "weight":
            parameter.copy_(value)
        else:
            optimiser.state[parameter][kind] = value.to(parameter.device)


def run_folder(profile: Profile, arm: str, seed: int) -> Path:
    """Where a run leaves its files."""
    return profile.folder / "runs" / f"{arm}-seed{seed}"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, empty where there is none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
