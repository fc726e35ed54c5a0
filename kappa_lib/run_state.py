"""A training run on disk: one atomic checkpoint, and metrics that agree with it."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kappa_lib.errors import CheckpointError
from kappa_lib.files import replacing, require_space, write_text

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class RunState:
    """Files of one run: ``resume.safetensors`` while it lasts, ``model.safetensors`` after it.

    A checkpoint holds the trainable tensors, both AdamW moments, the random state and the
    position, in one file that is replaced atomically. Lines of ``metrics.jsonl`` later than the
    checkpoint are dropped on resume and measured again.

    Args:
        folder: of the run.
        key: fingerprint of everything that decides the run; another run's files are ignored.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.metrics_path = folder / "metrics.jsonl"
        self.model_path = folder / "model.safetensors"
        self.resume_path = folder / "resume.safetensors"

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_metrics(self.folder)

    def append(self, row: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``, rewriting it atomically."""
        self._write_metrics([*self.metrics(), row])

    def _write_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        write_text(self.metrics_path, "".join(line + "\n" for line in lines))

    def start(self) -> None:
        """Forget whatever another configuration left in this folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._write_metrics([])

    def save(
        self, step: int, named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> None:
        """Write the checkpoint of ``step``.

        Raises:
            SpaceError: the disk cannot hold it; the previous checkpoint stays.
        """
        tensors = {f"weight/{name}": p.detach().cpu().contiguous() for name, p in named.items()}
        for name, parameter in named.items():
            for moment, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}"] = value.detach().cpu().contiguous()
        tensors["random"] = torch.get_rng_state()
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        require_space(self.folder, size)
        with replacing(self.resume_path) as temporary:
            save_file(tensors, temporary, {"step": str(step), "key": self.key})

    def resume(
        self, named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> int | None:
        """Load the checkpoint into parameters and optimiser.

        Returns:
            The step it was written at, or None where there is none of this configuration.
        """
        if not self.resume_path.is_file():
            return None
        try:
            with safe_open(self.resume_path, framework="pt") as stored:
                header = stored.metadata() or {}
                if header.get("key") != self.key:
                    return None
                for name, parameter in named.items():
                    _restore(stored, name, parameter, optimiser)
                torch.set_rng_state(stored.get_tensor("random"))
        except Exception as error:
            raise CheckpointError(
                f"{self.resume_path} cannot be read: {error}", "delete it to start this run anew"
            ) from error
        step = int(header["step"])
        self._write_metrics(row for row in self.metrics() if row["step"] <= step)
        return step

    def finish(self, named: dict[str, nn.Parameter]) -> None:
        """Keep the trained tensors as ``model.safetensors``; the resume file goes."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in named.items()}
        with replacing(self.model_path) as temporary:
            save_file(tensors, temporary, {"key": self.key})
        self.resume_path.unlink(missing_ok=True)


def _restore(
    stored: Any, name: str, parameter: nn.Parameter, optimiser: torch.optim.Optimizer
) -> None:
    parameter.data.copy_(stored.get_tensor(f"weight/{name}"))
    available = set(stored.keys())
    state: dict[str, Tensor] = {}
    for moment in _MOMENTS:
        if f"{moment}/{name}" in available:
            value = stored.get_tensor(f"{moment}/{name}")
            # AdamW keeps its step counter on the CPU whatever the parameter's device.
            state[moment] = value if moment == "step" else value.to(parameter.device)
    if state:
        optimiser.state[parameter] = state


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, empty where there is none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
