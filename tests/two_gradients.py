"""The gradients of one batch before clipping, written to a file; started by test_processes.

``python two_gradients.py ROOT FOLDER WAY ...`` under torchrun, or :func:`write` in one process.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import tiny_paper
from safetensors.torch import save_file

from kappa_lib import distributed
from kappa_lib.run import stages
from kappa_lib.training import parallel, trainer


class Stop(Exception):
    pass


def write(root: Path, way: str, out: Path) -> None:
    """Train to the first step's gradients, and leave them in ``out``."""
    changes = {"arms": ["selected"], "dtype": "float32", "parallel": way}
    experiment, arms = stages.prepare(tiny_paper.profile(root, **changes))

    def keep(parameters, limit):
        kept = {str(i): parallel.full_tensor(p.grad) for i, p in enumerate(parameters)}
        if distributed.is_main_process():
            save_file(kept, out)
        raise Stop

    experiment.accelerator.clip_grad_norm_ = keep
    with suppress(Stop):
        trainer.train(experiment, arms["selected"], 0)


if __name__ == "__main__":
    root, folder, *ways = sys.argv[1:]
    for way in ways:
        os.environ["KAPPA_RESULTS"] = str(Path(folder, way))
        write(Path(root), way, Path(folder, f"{way}.safetensors"))
    distributed.shut_down()
    # A step was left half-way: an ordinary exit may abort on threads of it that still run.
    os._exit(0)
