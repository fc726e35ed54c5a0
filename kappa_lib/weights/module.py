"""The weights of a model in memory, as its modules use them."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from kappa_lib.errors import CheckpointError
from kappa_lib.weights import kinds
from kappa_lib.weights.assembling import assembled
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo


def of_module(module: nn.Module) -> Checkpoint:
    """The parameters of a loaded module; tied ones once, under their first name."""
    kind, config = type(module).__name__, getattr(module, "config", None)
    # The folder's name where it was loaded from a folder: where that lay says nothing.
    name = Path(getattr(config, "_name_or_path", None) or "")
    shown = name.name if name.is_absolute() else name.as_posix()
    checkpoint = Checkpoint(shown if name.name else kind)
    checkpoint.basis = f"as the modules of this {kind} use them"
    if hasattr(config, "to_json_string"):  # of transformers
        found = json.loads(config.to_json_string(use_diff=False))
        checkpoint.config = json.dumps(found | {"architectures": [kind]})
    held = {name: (p, partial(_values, name, p)) for name, p in module.named_parameters()}
    pruned = {f"{name.removesuffix('_orig')}_mask" for name in held if name.endswith("_orig")}
    held |= {name: (mask, mask.cpu) for name, mask in module.named_buffers() if name in pruned}
    stored = {
        name: TensorInfo(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), read)
        for name, (t, read) in held.items()
    }
    weights, checkpoint.problems = assembled(stored)
    roles = kinds.of_model(module)
    for name, info in weights.items():
        stack, why = roles.get(name, (False, kinds.PART))
        checkpoint.tensors.append(replace(info, stack=stack, why=why))
    return checkpoint


def _values(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Of a parameter; refused where they are not its own."""
    if parameter.is_meta:
        raise CheckpointError(f"{name}: on the meta device, without values", "load it")
    # Packed ones are of a class of their own, and may pose as floating-point numbers.
    kind = type(parameter).__name__
    plain = kind in ("Parameter", "Tensor", "DTensor") and parameter.is_floating_point()
    if not plain or parameter.dtype.itemsize == 1:
        raise CheckpointError(
            f"{name}: packed as {parameter.dtype} ({kind}), which holds codes and not weights",
            "scan the folder the model was loaded from, or load it unquantised",
        )
    return parameter.detach().cpu()
