"""The processes that work on one run together: one, unless a launcher started more.

Talking to each other is Accelerate's part; a process that is alone never calls it. Every function
that says "all" has to be called by all processes, in the same order.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

# Accelerate is heavy, and a process that is alone does without: it is imported where it is needed.

# How long the others wait for what one process does alone, a warm start for instance. A process
# that ends ends the job at once, whatever this is.
PATIENCE = timedelta(hours=12)

T = TypeVar("T")


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether a launcher (torchrun, ``accelerate launch``) started this process."""
    return "WORLD_SIZE" in os.environ


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process that writes files and reports progress."""
    return rank() == 0


# Settings of an Accelerate configuration that lies around; the profile decides instead.
_OVERRULED = ("FSDP_", "ACCELERATE_USE_", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS")


def initialise() -> Any:
    """Meet the other processes; the first call sets up how they talk (NCCL, gloo on CPUs).

    Returns:
        Accelerate's handle on them; None for a process that is alone.
    """
    for name in list(os.environ):
        if name.startswith(_OVERRULED) and name != "ACCELERATE_USE_CPU":
            del os.environ[name]
    if world_size() == 1:
        return None
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=cpu, timeout=PATIENCE)


def barrier() -> None:
    """Wait until all processes are here."""
    if state := initialise():
        state.wait_for_everyone()


def shut_down() -> None:
    """Wait for all processes, then take the connections between them down."""
    barrier()
    if state := initialise():
        state.destroy_process_group()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process do the block before all others: it fetches and makes files for them.

    If it fails, it ends, and the launcher ends the others that wait for it.
    """
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def shard(total: int) -> range:
    """This process' part of ``total`` numbered pieces of work: every ``world_size``-th."""
    return range(rank(), total, world_size())


def all_gather(found: Mapping[int, T]) -> list[T]:
    """The results of all processes' pieces, in the order of their numbers, for all of them.

    Args:
        found: number of the piece → its result.
    """
    pairs = list(found.items())
    if initialise():
        from accelerate.utils import gather_object

        pairs = gather_object(pairs)
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def broadcast(value: T) -> T:
    """The main process' value, for all."""
    if not initialise():
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]
