"""``kappa`` in several processes on one machine, through the launcher that Accelerate wraps.

``accelerate launch`` starts several processes on GPUs, and needs MPI to do so on CPUs; torchrun,
to which it hands over, does both alike. On several machines call either yourself:
``accelerate launch ... -m kappa_lib.run.cli train ...`` works as well.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kappa_lib.errors import InputError, KappaError

_SPOKEN = 2  # exit status of a process that has said what is wrong (kappa_lib.run.cli.WRONG)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class ProcessError(KappaError):
    """One of several processes ended before its work was done; the others were ended, too."""


def launch(arguments: Sequence[str], processes: int, device: str) -> None:
    """Run ``kappa ARGUMENTS`` in several processes and wait for all of them.

    Args:
        arguments: of the command.
        processes: how many.
        device: ``cpu`` keeps off GPUs; with ``auto`` and ``cuda`` each process takes one.

    Raises:
        InputError: fewer than one process, or more than there are GPUs.
        ProcessError: a process failed or was killed: which, how, and what to do.
        KeyboardInterrupt: interrupted or asked to end.
    """
    if processes < 1:
        raise InputError(f"{processes} processes can't work", "give a positive number")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if not on_cpu and processes > (found := torch.cuda.device_count()):
        raise InputError(
            f"{processes} processes need a GPU each, and {found} are visible",
            "start fewer, or more machines with `accelerate launch`",
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    changes = {"OMP_NUM_THREADS": str(max(1, (cores or 1) // processes))} | os.environ
    if on_cpu:
        changes |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    options = ["--standalone", "--nproc-per-node", str(processes), "-m", "kappa_lib.run.cli"]
    with _unchanged_afterwards():
        os.environ.update(changes)
        try:
            torchrun.run(torchrun.parse_args([*options, *arguments]))
        except ChildFailedError as error:
            raise _explained(error, processes) from error
        except SignalException as error:
            raise KeyboardInterrupt from error


@contextmanager
def _unchanged_afterwards() -> Iterator[None]:
    """Put back the environment and the signal handlers, which torchrun replaces for good."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _explained(error: ChildFailedError, processes: int) -> ProcessError:
    # Times are whole seconds, and a process that loses another one fails, or is ended, in the same
    # second: these two come last.
    rank, failure = min(
        error.failures.items(),
        key=lambda item: (item[1].exitcode in (1, -signal.SIGTERM), item[1].timestamp),
    )
    code = failure.exitcode
    if code < 0:
        what = f"was ended by {signal.Signals(-code).name}"
        cause = "SIGKILL without a sender is most often the system's, for want of memory; "
    elif code == _SPOKEN:
        what, cause = "stopped; its reason stands above", "mend that; "
    else:
        what, cause = f"failed with exit status {code}; its traceback stands above", ""
    return ProcessError(
        f"process {rank} of {processes} {what}. The others were ended",
        cause + "the same command goes on from the last checkpoint, with any number of processes",
    )
