"""The processes that train one model together, and Accelerate's FSDP2 around it.

There is one process, unless ``accelerate launch`` started more. Then weights, gradients and
optimiser states are spread over their devices, and a layer is gathered at a time; what fits one
device needs none of it, for arms and seeds can be trained beside each other. What waits for the
others or hears from them has to be called by all, in the same order.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from kappa_lib.progress import is_main_process, rank

# Settings of an Accelerate configuration that lies around.
_OVERRULED = ("FSDP_", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_GRADIENT_")

T = TypeVar("T")


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def state() -> PartialState:
    """Accelerate's state of the processes; the first call connects them (NCCL, gloo on CPUs)."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    # The others wait for what one does alone, a warm start for instance; a process that ends ends
    # the job at once.
    return PartialState(cpu=cpu, timeout=timedelta(hours=12))


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        state().wait_for_everyone()


def shut_down() -> None:
    """Wait for all processes, then take the connections between them down."""
    if world_size() > 1:
        barrier()
        state().destroy_process_group()


def main_process_first() -> AbstractContextManager[None]:
    """Let the main process do the block before all others: it fetches and makes files for them."""
    return state().main_process_first() if world_size() > 1 else nullcontext()


def shard(total: int) -> range:
    """This process' part of ``total`` numbered pieces of work: every ``world_size``-th."""
    return range(rank(), total, world_size())


def all_gather(found: Mapping[int, T]) -> list[T]:
    """Number of a piece → its result, from each process; for all, in the order of numbers."""
    pairs = list(found.items())
    pairs = gather_object(pairs) if world_size() > 1 else pairs
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def broadcast(value: T) -> T:
    """The main process' value, for all."""
    return broadcast_object_list([value])[0] if world_size() > 1 else value


def accelerator(device: torch.device) -> Accelerator:
    """Accelerate's handle on the processes of a run, for a model on a device.

    Precision stays that of ``training.model``, so that one process and many compute alike.
    """
    for name in list(os.environ):
        if name.startswith(_OVERRULED):
            del os.environ[name]
    on_cpu = device.type != "cuda"
    if world_size() == 1:
        return Accelerator(mixed_precision="no", cpu=on_cpu)
    state()  # waits longer than what Accelerate would set up by itself
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",  # the layers that the model names
        cpu_ram_efficient_loading=False,
        cpu_offload=False,
        activation_checkpointing=False,
    )
    found = Accelerator(mixed_precision="no", cpu=on_cpu, fsdp_plugin=plugin)
    if not found.is_fsdp2:
        # Accelerate turns sharding on where there is a GPU; on CPUs the same code runs, too. Its
        # objects read this from the state that all of a process share.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        found.state.distributed_type = DistributedType.FSDP
        found.state.fsdp_plugin = plugin
    return found


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights of a sharded model and may use it on its own."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
            # The outermost holds what no layer does, and keeps it between forward and backward.
            shard.set_reshard_after_forward(shard is not model, recurse=False)


def full_tensor(tensor: Tensor) -> Tensor | None:
    """A tensor with all its shards on the CPU, for the main process; None for the others.

    All processes have to ask for it, and the others must not hold a copy: a checkpoint of the
    paper's size takes 38 GB.
    """
    value = tensor.detach()
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.cpu().contiguous() if is_main_process() else None


def distributed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, read by every process, as ``like`` is held: on its device, in its shards."""
    value = value.to(like.device)
    if not isinstance(like, DTensor) or value.ndim == 0:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
