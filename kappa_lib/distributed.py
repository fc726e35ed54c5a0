"""The processes that train one model together: one, unless ``accelerate launch`` started more.

Talking to each other is Accelerate's part, and it is imported only where there are several. What
follows ``is_main_process`` has to be called by all of them, in the same order.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

# How long the others wait for what one process does alone, a warm start for instance. A process
# that ends ends the job at once, whatever this is.
TIMEOUT = timedelta(hours=12)

T = TypeVar("T")


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process that writes files and reports progress."""
    return rank() == 0


def state() -> Any:
    """Accelerate's state of the processes; the first call connects them (NCCL, gloo on CPUs)."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=cpu, timeout=TIMEOUT)


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        state().wait_for_everyone()


def shut_down() -> None:
    """Wait for all processes, then take the connections between them down."""
    barrier()
    if world_size() > 1:
        state().destroy_process_group()


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
    """Number of a piece → its result, from each process; for all, in the order of numbers."""
    pairs = list(found.items())
    if world_size() > 1:
        from accelerate.utils import gather_object

        state()
        pairs = gather_object(pairs)
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def broadcast(value: T) -> T:
    """The main process' value, for all."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    state()
    return broadcast_object_list([value])[0]
