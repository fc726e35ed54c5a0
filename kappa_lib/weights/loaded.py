"""A checkpoint's tensors as the model that transformers makes of them holds them.

transformers renames, merges and splits stored tensors as it loads a model. Here it loads tensors
without values, on torch's meta device, that remember which operations they come from; these are
done again on the stored values, when a weight is read. Neither weights nor code of a checkpoint are
touched by loading.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kappa_lib.errors import CheckpointError, InputError, first_line
from kappa_lib.files import parse
from kappa_lib.weights import kinds
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.module import ModuleCheckpoint

if TYPE_CHECKING:  # heavy, and not in the core
    from transformers import PreTrainedConfig, PreTrainedModel

# What moves a tensor and leaves its values.
_MOVES = (torch.Tensor.to, torch.Tensor.detach, torch.Tensor.contiguous)


class Traced(torch.Tensor):
    """A tensor on the meta device that remembers how it is made.

    ``step`` is the name of a stored tensor, or the function, its arguments and which of its
    results this is. What is written into afterwards has none.
    """

    step: str | tuple[Callable, tuple, dict, int | None] | None

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


def stored(name: str, shape: tuple[int, ...]) -> Traced:
    """A stored tensor before it is read."""
    return _made(torch.empty(shape, device="meta"), name)


def _parts(value: Any) -> Iterator[Traced]:
    if isinstance(value, Traced):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item)


def sources(tensor: torch.Tensor) -> list[str] | None:
    """Stored tensors that a weight is made of; None where that is not known."""
    step = getattr(tensor, "step", None)
    if step is None or isinstance(step, str):
        return step and [step]
    found = [sources(part) for part in _parts((step[1], tuple(step[2].values())))]
    return None if None in found else [name for names in found for name in names]


def values(
    tensor: Any, read: Callable[[str], torch.Tensor], expert: tuple[int, int] | None = None
) -> Any:
    """The values of a traced tensor, made of what ``read`` gives for the names of stored ones.

    With ``expert``, an index and how many there are, wherever so many matrices are put into a
    stack only that one is read, and the stack has a length of one.
    """
    if isinstance(tensor, tuple | list):
        return type(tensor)(values(item, read, expert) for item in tensor)
    if not isinstance(tensor, Traced):
        return tensor
    if isinstance(tensor.step, str):
        return read(tensor.step)
    function, args, kwargs, place = tensor.step
    if function in _MOVES:
        return values(args[0], read, expert)
    if function is torch.stack and expert and len(args[0]) == expert[1]:
        args = ([args[0][expert[0]]], *args[1:])
    named = {key: values(value, read, expert) for key, value in kwargs.items()}
    result = function(*values(tuple(args), read, expert), **named)
    return result if place is None else result[place]


class LoadedCheckpoint(Checkpoint):
    """Stored tensors under the names, and in the form, in which a model of transformers uses them.

    Args:
        files: the checkpoint as stored.
        model: loaded with :func:`stored` tensors.
        mismatched: parameter → the other shape that is stored for it.
    """

    def __init__(
        self, files: Checkpoint, model: "PreTrainedModel", mismatched: dict[str, tuple[int, ...]]
    ) -> None:
        super().__init__(files.model_id, files.revision)
        self.config, self.problems, self.left_out = files.config, files.problems, files.left_out
        self.basis = f"as transformers' {type(model).__name__} uses them"
        self._stored, self._infos = files, {info.name: info for info in files.tensors}
        self._values: dict[str, torch.Tensor] = {}
        self._made: dict[str, list[str]] = {}
        place = {name: number for number, name in enumerate(self._infos)}
        parameters = dict(model.named_parameters())
        for name, (stack, why) in kinds.of_model(model).items():
            value = parameters.get(name)
            if value is None and name in place:  # what its parts make up, which files has done
                value = stored(name, self._infos[name].shape)
            if made := sources(value):
                self._values[name], self._made[name] = value, made
                first = self._infos[made[0]]
                facts = tuple(value.shape), first.dtype, first.shard, first.refused
                self.tensors.append(TensorInfo(name, *facts, stack, why))
            elif not why:
                self.absent[name] = _why_absent(value, mismatched.get(name))
        self.tensors.sort(key=lambda info: place[self._made[info.name][0]])
        self._add_unused(model)
        # A weight that is packed in a way that is not understood is refused as it is read.
        broken = {i.name.rpartition(".")[0] for i in self.tensors if i.refused}
        broken |= {name.rpartition(".")[0] for name, shape in mismatched.items() if 0 in shape}
        for name in list(self.absent):
            if self.problems or name.rpartition(".")[0] in broken:
                del self.absent[name]

    def _add_unused(self, model: "PreTrainedModel") -> None:
        """What no weight is made of: buffers, and what the model does not have."""
        used = {name for names in self._made.values() for name in names}
        buffers = {name for _, buffer in model.named_buffers() for name in sources(buffer) or []}
        for name, info in self._infos.items():
            if name in used or (name in self.absent and not info.refused):
                continue
            why = "a buffer" if name in buffers else f"not in transformers' {type(model).__name__}"
            why = kinds.VECTOR if len(info.shape) < 2 else why
            self._values[name], self._made[name] = stored(name, info.shape), [name]
            self.tensors.append(replace(info, why="" if info.refused else why))

    def _read_part(self, name: str) -> torch.Tensor:
        return self._stored.read(self._infos[name])

    def read(self, info: TensorInfo) -> torch.Tensor:
        return values(self._values[info.name], self._read_part)

    def matrices(self, info: TensorInfo) -> Iterator[tuple[str, torch.Tensor]]:
        whole = self._values[info.name]
        if not info.stack or len(self._made[info.name]) == 1:
            yield from super().matrices(info)
            return
        for i, name in enumerate(info.matrices):
            one = values(whole, self._read_part, (i, info.shape[0]))
            if one.shape != (1, *info.shape[1:]):
                what = f"{name}: how its stack is put together is not understood"
                raise CheckpointError(
                    what, "report it, with the kind of model; --exclude the stack"
                )
            yield name, one[0]

    def files(self, info: TensorInfo) -> dict[str, str]:
        parts = {(part := self._infos[name]).shard: part for name in self._made[info.name]}
        return {shard: self._stored.digest(part) for shard, part in parts.items()}

    def digest(self, info: TensorInfo) -> str:
        return "+".join(self.files(info).values())


def _why_absent(value: torch.Tensor | None, shape: tuple[int, ...] | None) -> str:
    if shape and value is not None:
        return f"stored as {'×'.join(map(str, shape))}, not {'×'.join(map(str, value.shape))}"
    return "in the model and not in its files"


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
    with tempfile.TemporaryDirectory() as folder, _quiet():
        (Path(folder) / "config.json").write_text(json.dumps(found), encoding="utf-8")
        try:
            settings = transformers.CONFIG_MAPPING[kind].from_pretrained(folder)
        except Exception as error:  # whatever a class makes of its values
            what = f"config.json: transformers refuses it: {first_line(error)}"
            raise InputError(what, "mend what it says") from error
    names = found.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        named = getattr(transformers, names[0], None)
        if not (isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)):
            raise InputError(f"config.json: transformers has no model {names[0]!r}", "name another")
        return named, settings
    for mapping in (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_MAPPING):
        if type(settings) in mapping:
            return mapping[type(settings)], settings
    raise InputError(f"config.json: it names no architecture of {kind!r}", "add its class to it")


def empty_model(config: str) -> "PreTrainedModel":
    """The model of a ``config.json`` on torch's meta device; errors of :func:`model_class`."""
    kind, settings = model_class(config)
    with torch.device("meta"), _quiet():
        return kind(settings)


def _loaded(files: Checkpoint) -> LoadedCheckpoint:
    kind, settings = model_class(files.config)
    tensors = {info.name: stored(info.name, info.shape) for info in files.tensors}
    with _quiet():
        model, report = kind.from_pretrained(
            None,
            config=settings,
            state_dict=tensors,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    mismatched = {name: tuple(shape) for name, shape, _ in report["mismatched_keys"]}
    return LoadedCheckpoint(files, model, mismatched)


def as_used(files: Checkpoint) -> Checkpoint:
    """The same checkpoint with its tensors as a model uses them, and what is none left out by name.

    Its ``basis`` says what that rests on: a model in memory, the class of transformers that the
    configuration names, or, where there is none to ask, the names of the stored tensors.
    """
    if isinstance(files, ModuleCheckpoint):
        return files
    reason = "there is no config.json"
    if files.config:
        try:
            return _loaded(files)
        except Exception as error:  # whatever a model's code makes of a configuration
            reason = error.what if isinstance(error, InputError) else first_line(error)
    files.basis = f"by the names of stored tensors alone, for {reason}"
    for number, info in enumerate(files.tensors):
        if not info.refused:
            stack, why = kinds.by_name(info.name, info.shape)
            files.tensors[number] = replace(info, stack=stack, why=why)
    if not files.problems:
        names = [info.name for info in files.tensors if not info.why]
        files.absent |= dict.fromkeys(kinds.thinner_layers(names), "the layers beside it have it")
    return files
