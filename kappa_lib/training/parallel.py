"""Training on one device or several: Accelerate's DDP or FSDP2 around the same model.

``ddp`` holds the whole model on every device and averages gradients; ``fsdp2`` spreads weights,
gradients and optimiser states over the devices and gathers a layer at a time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from kappa_lib import distributed

# Settings of an Accelerate configuration that lies around; the profile decides instead.
_OVERRULED = ("FSDP_", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_GRADIENT_")


def accelerator(way: str, device: torch.device) -> Accelerator:
    """Accelerate's handle on the processes of a run; with one process ``way`` means nothing.

    Precision stays ``training.precision``'s, so that one process and many compute alike.

    Args:
        way: ``ddp`` or ``fsdp2``.
        device: of the model.
    """
    for name in list(os.environ):
        if name.startswith(_OVERRULED):
            del os.environ[name]
    if distributed.world_size() > 1:
        distributed.state()  # waits longer than what Accelerate would set up by itself
    shards = way == "fsdp2" and distributed.world_size() > 1
    plugin = None
    if shards:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",  # the layers that the model names
            cpu_ram_efficient_loading=False,
            cpu_offload=False,
            activation_checkpointing=False,
        )
    found = Accelerator(
        mixed_precision="no",
        cpu=device.type != "cuda",
        fsdp_plugin=plugin,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if shards and not is_sharded(found):
        # Accelerate turns sharding on where there is a GPU; on CPUs the same code runs, too. Its
        # objects read this from the state that all of a process share.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        found.state.distributed_type = DistributedType.FSDP
        found.state.fsdp_plugin = plugin
    return found


def is_sharded(found: Accelerator) -> bool:
    """Whether the accelerator spreads the model over the processes."""
    return found.distributed_type == DistributedType.FSDP


def peak_gib(device: torch.device) -> float | None:
    """The most memory that tensors took on a GPU since the process began, None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


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
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu().contiguous() if distributed.is_main_process() else None


def distributed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, read by every process, as ``like`` is held: on its device, in its shards."""
    value = value.to(like.device)
    if not isinstance(like, DTensor) or value.ndim == 0:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
