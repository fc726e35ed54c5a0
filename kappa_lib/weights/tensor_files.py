"""Files of tensors that this package writes for itself, and reads back whole."""

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kappa_lib.errors import CheckpointError, from_system
from kappa_lib.files import replacing, require_space


def save_tensors(
    path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None
) -> None:
    """Write a file of safetensors atomically.

    Raises:
        SpaceError: the disk cannot hold it.
        KappaError: the system refuses it for another reason.
    """
    try:
        with replacing(path) as temporary:
            require_space(path.parent, sum(tensor.nbytes for tensor in tensors.values()))
            save_file(tensors, temporary, header)
    except SafetensorError as error:
        # It is no OSError; the system's number stands in its text alone.
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise from_system(OSError(number, os.strerror(number), str(path))) from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of such a file, mapped from the disk.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}", "delete it and run again") from error
