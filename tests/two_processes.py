"""All that test_processes asks of two processes that end well, in one launch of them.

``python two_processes.py ROOT FOLDER`` under torchrun. What a piece of work writes and prints lies
below ``FOLDER/NAME``.
"""

import contextlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import tiny_paper
from safetensors.torch import save_file

from kappa_lib.run import cli, stages
from kappa_lib.training import parallel, trainer

LR = 5e-3  # large enough for four steps to matter
EVERY_ARM = {"arms": ["selected", "inverse"], "seeds": [0, 1]}


class Stop(Exception):
    pass


def write_gradients(root: Path, folder: Path) -> None:
    """Train to the first step's gradients before clipping, and leave them in the folder."""
    os.environ["KAPPA_RESULTS"] = str(folder)
    profile = tiny_paper.profile(root, arms=["selected"], dtype="float32")
    experiment, arms = stages.prepare(profile)

    def keep(parameters, limit):
        kept = {str(i): parallel.full_tensor(p.grad) for i, p in enumerate(parameters)}
        if parallel.is_main_process():
            folder.mkdir(exist_ok=True)
            save_file(kept, folder / "gradients.safetensors")
        raise Stop

    experiment.accelerator.clip_grad_norm_ = keep
    with suppress(Stop):
        trainer.train(experiment, arms["selected"], 0)


def training(root: Path, **changes) -> list[str]:
    """Arguments of the command that trains the miniature."""
    values = {"model": str(root / "llama"), "encoder": str(root / "whisper")}
    values |= tiny_paper.SMALL | {"arms": ["selected"], "dtype": "float32", "lr": LR} | changes
    pairs = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return ["train", "--profile", "paper", *(w for pair in pairs for w in ("--set", pair))]


def run(folder: Path, arguments: list[str]) -> None:
    """The command, its results and its output below a folder."""
    folder.mkdir(exist_ok=True)
    os.environ["KAPPA_RESULTS"] = str(folder)
    out = folder / f"said-by-{parallel.rank()}.txt"
    with out.open("w") as file, contextlib.redirect_stdout(file):
        assert cli.main(arguments) == 0


def main(root: Path, folder: Path) -> None:
    run(folder / "bfloat16", training(root, dtype="bfloat16"))
    run(folder / "every-arm", training(root, **EVERY_ARM))
    write_gradients(root, folder / "gradients")


if __name__ == "__main__":
    # Each command takes the connections down when it is done; here the next one needs them.
    with patch.object(parallel, "shut_down", parallel.barrier):
        main(*map(Path, sys.argv[1:]))
    parallel.shut_down()
    # A step was left half-way: an ordinary exit may abort on threads of it that still run.
    os._exit(0)
