"""Sizes of the models that profiles name, known before anything is downloaded.

Shapes and counts are those of the modules that transformers makes of a configuration on torch's
meta device, where no weight takes memory. The published configurations of Meta's, Qwen's, Hugging
Face's and OpenAI's repositories stand in ``data/configs.json``.
"""

import json
from typing import TYPE_CHECKING

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.weights import loaded

if TYPE_CHECKING:  # heavy, and not in the core
    from transformers import PreTrainedModel


def config(name: str) -> str:
    """Text of the ``config.json`` of a profile's ``model`` or ``encoder``.

    Raises:
        InputError: neither published here nor in a local Hugging Face folder of that name; nothing
            is downloaded to find out.
    """
    # The GGUFs of Qwen hold the output layer once more, so that it is a matrix of its own.
    published = read_json(paths.DATA / "configs.json")
    if name in published:
        return json.dumps(published[name])
    path = paths.expanded(name) / "config.json"
    # CTranslate2's folders have a file of that name, too.
    if path.is_file() and not (path.parent / "model.bin").is_file():
        return path.read_text("utf-8")
    raise InputError(
        f"the sizes of {name!r} are not known before it is downloaded",
        f"use a local Hugging Face folder, or one of {', '.join(published)}",
    )


def empty(model: str) -> "PreTrainedModel":
    """A profile's ``model`` on the meta device; errors of :func:`config` and of transformers."""
    return loaded.empty_model(config(model))


def layout(model: "PreTrainedModel") -> tuple[dict[str, tuple[int, int]], int]:
    """Module path inside a layer → (out, in) of its matrix, as stored; and the number of layers.

    Raises:
        InputError: the model is not laid out like a Llama.
    """
    first = "model.layers.0."
    shapes = {
        name.removeprefix(first).removesuffix(".weight"): tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name.startswith(first) and parameter.ndim == 2
    }
    if not shapes:
        kind = model.config.model_type
        raise InputError(f"a {kind} is not laid out like a Llama", "name a model that is")
    return shapes, model.config.num_hidden_layers
