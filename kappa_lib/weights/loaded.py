"""Tensors as the modules of a model use them: of one in memory, or of what transformers makes of
a checkpoint.

transformers renames, merges and splits stored tensors as it loads a model. Here it loads tensors
without values, on torch's meta device, that remember which operations they come from; these are
done again on the stored values, when a weight is read. Code of a checkpoint is never run.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from inspect import ismethod
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from kappa_lib.errors import CheckpointError, InputError, first_line
from kappa_lib.files import parse
from kappa_lib.weights import kinds
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo, files_of, refusal
from kappa_lib.weights.factors import without_factors

if TYPE_CHECKING:  # heavy, and not in the core
    from transformers import PreTrainedConfig, PreTrainedModel

# What moves a tensor and leaves its values.
_MOVES = (torch.Tensor.to, torch.Tensor.detach, torch.Tensor.contiguous)
_NO_CODES = (torch.bool, torch.int64, torch.complex64)  # masks, positions, rotations
_WHOLE = "scan the folder the model was loaded from, or load it whole and unquantised"


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
    stored = {}
    for name, parameter in module.named_parameters():
        dtype, read = str(parameter.dtype).removeprefix("torch."), partial(_values, name, parameter)
        stored[name] = TensorInfo(name, tuple(parameter.shape), dtype, read)
    weights, checkpoint.problems = without_factors(stored)
    roles = kinds.of_model(module)
    for name, info in weights.items():
        stack, why = roles.get(name, (False, "a part of a weight"))
        checkpoint.tensors.append(replace(info, stack=stack, why=why))
    if not checkpoint.problems:
        _refuse_what_is_elsewhere(checkpoint, module, roles)
    return checkpoint


def _refuse_what_is_elsewhere(
    checkpoint: Checkpoint, module: nn.Module, roles: dict[str, tuple[bool, str]]
) -> None:
    """Refuse weights that a model does not hold as a parameter: its layers keep codes in buffers
    or behind a method, or a sharded model has taken them away."""
    there = {info.name for info in checkpoint.tensors if len(info.shape) > 1}
    elsewhere = {name for name, (_, why) in roles.items() if not why} - there
    for path, layer in module.named_modules():
        held = chain(layer.parameters(recurse=False), layer.buffers(recurse=False))
        odd = [t for t in held if t.ndim > 1 and t.shape[:2] != (1, 1) and not _are_numbers(t)]
        packed = any(t.dtype not in _NO_CODES for t in odd)
        # The weight of torch.ao's layers is a method.
        if (packed and not kinds.is_layer(layer)) or ismethod(getattr(layer, "weight", None)):
            elsewhere.add(f"{path}.weight")
    kept = [info for info in checkpoint.tensors if info.name not in elsewhere]
    why = "its layer holds it packed, or not at all, as where a model is sharded"
    checkpoint.tensors = kept + [
        refusal(TensorInfo(name, (0,), "unknown", torch.Tensor), f"{name}: {why}", _WHOLE)
        for name in sorted(elsewhere)
    ]


def _are_numbers(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize > 1


def _values(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Of a parameter; refused where they are not its own."""
    # Packed ones are of a class of their own, and may pose as floating-point numbers.
    kind = type(parameter).__name__
    if kind not in ("Parameter", "Tensor", "DTensor") or not _are_numbers(parameter):
        what = f"{name}: packed as {parameter.dtype} ({kind}), which holds codes and not weights"
        raise CheckpointError(what, _WHOLE)
    if kind == "DTensor":
        parameter = parameter.full_tensor()
    return parameter.detach().cpu()


class Traced(torch.Tensor):
    """A tensor on the meta device that remembers how it is made."""

    # A stored one, or the function, its arguments and which of its results this is; None of what
    # is written into afterwards.
    step: TensorInfo | tuple[Callable, tuple, dict, int | None] | None

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        name = function.__name__
        written = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if written and name != "requires_grad_":
            next(iter((*args, *kwargs.values()))).step = None
        # Of a new tensor that only looks like this one nothing is known.
        elif not name.startswith(("empty", "zeros", "ones", "full", "new_", "rand")):
            if type(result) not in (tuple, list):
                return _made(result, (function, args, kwargs, None))
            steps = ((function, args, kwargs, place) for place in range(len(result)))
            return type(result)(map(_made, result, steps))
        return result


def _made(value: Any, step: Any) -> Any:
    if not isinstance(value, torch.Tensor) or hasattr(value, "step"):
        return value
    value = value.as_subclass(Traced)
    value.step = step
    return value


def sources(tensor: torch.Tensor) -> list[TensorInfo] | None:
    """Stored tensors that a weight is made of; None where that is not known."""
    step = getattr(tensor, "step", None)
    if step is None or isinstance(step, TensorInfo):
        return step and [step]
    found = [sources(part) for part in tree_leaves(step[1:3]) if isinstance(part, Traced)]
    return None if None in found else [info for infos in found for info in infos]


def values(tensor: Any, expert: tuple[int, int] | None = None) -> Any:
    """The values of a traced tensor, made of those of stored ones.

    With ``expert``, an index and how many there are, wherever so many matrices are put into a
    stack only that one is read, and the stack has a length of one.
    """
    if not isinstance(tensor, Traced):
        return tensor
    if isinstance(tensor.step, TensorInfo):
        return tensor.step.read()
    function, args, kwargs, place = tensor.step
    if function in _MOVES:
        return values(args[0], expert)
    if function is torch.stack and expert and len(args[0]) == expert[1]:
        args = ([args[0][expert[0]]], *args[1:])
    args, kwargs = tree_map(lambda value: values(value, expert), (args, kwargs))
    result = function(*args, **kwargs)
    return result if place is None else result[place]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings and bars: what matters of them is said here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def model_class(config: str) -> "tuple[type[PreTrainedModel], PreTrainedConfig]":
    """The class that a ``config.json`` names, and its configuration, without quantisation.

    Raises:
        InputError: transformers is missing or has no such class, or the configuration is damaged.
    """
    if find_spec("transformers") is None:
        raise InputError("transformers is not installed", "pip install '.[speech]' in the clone")
    import transformers

    found = parse(config, "config.json", dict[str, object])
    kind = found.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise InputError(f"config.json: transformers knows no model type {kind!r}", "name another")
    found.pop("quantization_config", None)  # stored tensors are unpacked here
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            Path(folder, "config.json").write_text(json.dumps(found), encoding="utf-8")
            settings = transformers.CONFIG_MAPPING[kind].from_pretrained(folder)
    except Exception as error:  # whatever a class makes of its values
        what = f"config.json: transformers refuses it: {first_line(error)}"
        raise InputError(what, "mend what it says") from error
    names = found.get("architectures")
    name = names[0] if isinstance(names, list) and names else names
    named = getattr(transformers, str(name), None)
    if not (isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)):
        raise InputError(f"config.json: transformers has no model {name!r}", "name another")
    return named, settings


def empty_model(config: str) -> "PreTrainedModel":
    """The model of a ``config.json`` on torch's meta device; errors of :func:`model_class`."""
    kind, settings = model_class(config)
    with torch.device("meta"), _quiet():
        return kind(settings)


def _loaded(files: Checkpoint) -> Checkpoint:
    """Stored tensors under the names, and in the form, in which transformers' model uses them."""
    kind, settings = model_class(files.config)
    infos = {info.name: info for info in files.tensors}
    traced = {name: _made(torch.empty(i.shape, device="meta"), i) for name, i in infos.items()}
    how = {"device_map": "meta", "ignore_mismatched_sizes": True, "output_loading_info": True}
    with _quiet():
        model, report = kind.from_pretrained(None, config=settings, state_dict=dict(traced), **how)
    mismatched = {name: tuple(shape) for name, shape, _ in report["mismatched_keys"]}
    parameters = dict(model.named_parameters())
    found, absent = [], {}
    for name, (stack, why) in kinds.of_model(model).items():
        # Not among the parameters is what its parts make up, which ``files`` has done.
        value = parameters.get(name, traced.get(name))
        if made := sources(value):
            found.append((made, _info(name, value, made, stack, why)))
        elif not why:
            absent[name] = "in the model and not in its files"
            if shape := mismatched.get(name):
                absent[name] = f"stored in a shape that the model has not, {shape}"
    # What no parameter is made of: buffers, and what the model does not have.
    used = {info.name for made, _ in found for info in made}
    for name, info in infos.items():
        if name in used or (name in absent and not info.refused):
            continue
        why = f"no parameter of transformers' {type(model).__name__}"
        why = kinds.VECTOR if len(info.shape) < 2 else why
        found.append(([info], replace(info, why="" if info.refused else why)))
    place = {name: number for number, name in enumerate(infos)}
    tensors = [info for _, info in sorted(found, key=lambda pair: place[pair[0][0].name])]
    # A packed weight that is refused goes by the name of a part, beside that of the module's.
    broken = {info.name.rpartition(".")[0] for info in tensors if info.refused}
    known = {} if files.problems else absent
    return replace(
        files,
        tensors=tensors,
        absent={n: why for n, why in known.items() if n.rpartition(".")[0] not in broken},
        basis=f"as transformers' {type(model).__name__} uses them",
    )


def _info(
    name: str, value: torch.Tensor, parts: list[TensorInfo], stack: bool, why: str
) -> TensorInfo:
    """A weight of the model, made of the stored tensors ``parts``."""

    def expert(index: int) -> torch.Tensor:
        one = values(value, (index, value.shape[0]))
        if one.shape != (1, *value.shape[1:]):
            what = f"{name}[{index}]: how its stack is put together is not understood"
            raise CheckpointError(what, "report it, with the kind of model; --exclude the stack")
        return one[0]

    return replace(
        parts[0],
        name=name,
        shape=tuple(value.shape),
        source=partial(values, value),
        files=files_of(parts),
        stack=stack,
        why=why,
        expert=expert if stack and len(parts) > 1 else None,
    )


def as_used(files: Checkpoint) -> Checkpoint:
    """The same checkpoint with its tensors as a model uses them: one in memory, the class of
    transformers that the configuration names, or, with neither, by the names of what is stored."""
    if files.basis:
        return files
    reason = "there is no config.json"
    if files.config:
        try:
            return _loaded(files)
        except Exception as error:  # whatever a model's code makes of a configuration
            reason = error.what if isinstance(error, InputError) else first_line(error)
            if type(error) is RuntimeError:  # what transformers raises where parts do not fit
                what = "transformers can't make weights of stored tensors: some are missing or odd"
                files.problems.append(CheckpointError(what, "fetch or save the whole model"))
    files.basis = f"by the names of stored tensors alone, for {reason}"
    for number, info in enumerate(files.tensors):
        if not info.refused:
            stack, why = kinds.by_name(info.name, info.shape)
            files.tensors[number] = replace(info, stack=stack, why=why)
    return files
