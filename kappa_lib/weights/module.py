"""The weights of a model in memory, as its modules use them."""

import hashlib
import json
from functools import partial
from pathlib import Path

import torch
from torch import nn

from kappa_lib.errors import CheckpointError
from kappa_lib.weights import kinds
from kappa_lib.weights.assembling import assembled
from kappa_lib.weights.checkpoint import Checkpoint, Source, TensorInfo


class ModuleCheckpoint(Checkpoint):
    """The parameters of a loaded module; tied ones once, under their first name."""

    def __init__(self, module: nn.Module) -> None:
        config = getattr(module, "config", None)
        # The folder's name where it was loaded from a folder: where that lay says nothing.
        name = Path(getattr(config, "_name_or_path", None) or "")
        shown = name.name if name.is_absolute() else name.as_posix()
        super().__init__(shown if name.name else type(module).__name__)
        if hasattr(config, "to_json_string"):  # of transformers
            found = json.loads(config.to_json_string(use_diff=False))
            self.config = json.dumps(found | {"architectures": [type(module).__name__]})
        self.basis = f"as the modules of this {type(module).__name__} use them"
        held = dict(module.named_parameters())
        pruned = {f"{name.removesuffix('_orig')}_mask" for name in held if name.endswith("_orig")}
        sources = {
            name: Source(_dtype(p), tuple(p.shape), partial(_values, name, p))
            for name, p in held.items()
        } | {
            name: Source(_dtype(mask), tuple(mask.shape), mask.cpu)
            for name, mask in module.named_buffers()
            if name in pruned
        }
        self._sources, self.problems = assembled(sources)
        roles = kinds.of_model(module)
        for name, source in self._sources.items():
            stored = name, source.shape, source.dtype, source.file, source.refused
            self.tensors.append(TensorInfo(*stored, *roles.get(name, (False, kinds.PART))))

    def read(self, info: TensorInfo) -> torch.Tensor:
        return self._sources[info.name].read()

    def digest(self, info: TensorInfo) -> str:
        values = self.read(info).contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(values.numpy().data).hexdigest()


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
