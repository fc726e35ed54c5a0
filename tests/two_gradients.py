"""The gradients of one batch before clipping, written to a file; started by test_processes.

``python two_gradients.py ROOT RESULTS WAY OUT``, alone or under torchrun.
"""

import os
import sys
from pathlib import Path

import tiny_paper
from safetensors.torch import save_file

from kappa_lib import distributed
from kappa_lib.run import stages
from kappa_lib.training import parallel, trainer


class Stop(Exception):
    pass


def main(root: Path, results: str, way: str, out: str) -> None:
    os.environ |= {
        "KAPPA_HOME": str(root / "cache"),
        "KAPPA_CORPORA": str(root / "corpora"),
        "KAPPA_RESULTS": results,
    }
    changes = {"arms": ["selected"], "dtype": "float32", "parallel": way}
    bench, arms = stages.prepare(tiny_paper.profile(root, **changes))
    trainer.warm(bench, 0)
    run = trainer.Run(bench, arms["selected"], 0)
    steps = trainer._Training(run, bench.speech_llm(0, arms["selected"]))

    def keep(parameters, limit):
        kept = {name: parallel.full_tensor(p.grad) for name, p in steps.named.items()}
        if distributed.is_main_process():
            save_file(kept, out)
        raise Stop

    steps.accelerator.clip_grad_norm_ = keep
    try:
        steps.step([0, 5, 9, 14], 1e-3)
    except Stop:
        distributed.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
