"""Open a model wherever it is: in memory, in safetensors or GGUF files, or on the model hub."""

import re
from pathlib import Path

from torch import nn

from kappa_lib import paths
from kappa_lib.errors import CheckpointError, InputError
from kappa_lib.weights import hub
from kappa_lib.weights.checkpoint import Checkpoint, ModuleCheckpoint
from kappa_lib.weights.safetensors_files import ShardCheckpoint

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def open_checkpoint(source: nn.Module | str | Path) -> Checkpoint:
    """Open ``source`` without reading its tensors.

    Args:
        source: a module, a folder or file of safetensors, a GGUF file, or a model hub id.

    Raises:
        InputError: the source is none of these.
        CheckpointError: nothing in it can be read; the first problem is the message.
        AssetError: a hub id that can't be had, see :func:`hub.snapshot`.
    """
    if isinstance(source, nn.Module):
        checkpoint: Checkpoint = ModuleCheckpoint(source)
    else:
        checkpoint = _open_path(source)
    if not checkpoint.tensors:
        empty = CheckpointError(f"{source}: holds no tensors", "name another file or folder")
        raise (checkpoint.problems or [empty])[0]
    return checkpoint


def _open_path(source: str | Path) -> Checkpoint:
    path = paths.expanded(source)
    if path.is_dir():
        return ShardCheckpoint(path)
    if path.suffix == ".gguf" and path.is_file():
        from kappa_lib.weights.gguf_file import GgufCheckpoint  # gguf is not needed otherwise

        return GgufCheckpoint(path)
    if path.suffix == ".safetensors" and path.is_file():
        return ShardCheckpoint(path)
    if not path.exists() and _HUB_ID.match(str(source)):
        return ShardCheckpoint(hub.snapshot(str(source)))
    raise InputError(
        f"{source}: not a folder, .safetensors or .gguf file, nor a model hub id like owner/name",
        "check the path; pickle files (.bin, .pt) are refused, convert them to safetensors",
    )
