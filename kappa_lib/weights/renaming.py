"""Names of stored tensors → names of the parameters that transformers loads them into."""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

from kappa_lib.errors import InputError, first_line
from kappa_lib.files import fits, parse

if TYPE_CHECKING:  # heavy, and not in the core
    from transformers import PreTrainedModel

_AS_STORED = "take the stored names, which the selection's JSON has"
# Types whose class for causal language models calls a layer's matrices just so.
PLAIN = ("gemma", "gemma2", "granite", "llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3")
_PLAIN = re.compile(
    r"model\.layers\.(\d+)\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj\.weight"
)


def loaded_names(stored: Sequence[str], config: str) -> list[str]:
    """What transformers calls tensors once it has loaded them: a name each, in the order given.

    They are looked up in the model that transformers builds from the configuration, of the class
    that it names. Names stay as stored, and nothing is checked, without a configuration, where
    transformers is missing (the core does without) or older than 5, and where it does not know the
    model's type.

    Args:
        stored: names of whole tensors.
        config: text of the checkpoint's ``config.json``, or nothing.

    Raises:
        InputError: no model can be built from the configuration, or a tensor is no parameter of it:
            transformers leaves it out, merges or splits it, or converts it otherwise.
    """
    if not config or _kept(stored, config) or (model := _model(config)) is None:
        return list(stored)

    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    changes = get_model_conversion_mapping(model)
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    renamings = [change for change in changes if not isinstance(change, WeightConverter)]
    parameters, names = model.state_dict(), []
    for name in stored:
        found = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        # As transformers does: what is there already keeps its name.
        renamed, converter = found if found[0] in parameters else (name, None)
        if renamed not in parameters or converter:
            raise InputError(
                f"{name}: no parameter of transformers' {type(model).__name__} is this alone",
                f"leave it out of the scan with --exclude, or {_AS_STORED}",
            )
        names.append(renamed)
    return names


def _kept(stored: Sequence[str], config: str) -> bool:
    """Whether all are plain names, so that transformers need not be asked: that takes seconds."""
    found = parse(config, "config.json", dict[str, object])
    layers, classes = found.get("num_hidden_layers"), found.get("architectures")
    return (
        found.get("model_type") in PLAIN
        and fits(layers, int)
        and fits(classes, list[str])
        and [name.endswith("ForCausalLM") for name in classes] == [True]
        and all((plain := _PLAIN.fullmatch(name)) and int(plain[1]) < layers for name in stored)
    )


@cache
def _model(config: str) -> "PreTrainedModel | None":
    """On torch's meta device, without values; None where transformers can't be asked."""
    try:
        import transformers.conversion_mapping
    except ImportError:
        return None
    found = parse(config, "config.json", dict[str, object])
    kind = str(found.get("model_type"))
    if kind not in transformers.CONFIG_MAPPING:
        return None
    try:
        # Infinity, which JSON lacks, is written as an object.
        found = transformers.PreTrainedConfig._decode_special_floats(found)
        settings = transformers.CONFIG_MAPPING[kind].from_dict(found)
        named = getattr(transformers, (settings.architectures or ["none"])[0], None)
        with torch.device("meta"):
            if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
                return named(settings)
            return transformers.AutoModelForCausalLM.from_config(settings)
    except Exception as error:  # whatever a model's code makes of a configuration
        why = first_line(error.__cause__ or error)
        what = f"config.json: transformers can't build this {kind} model: {why}"
        raise InputError(what, f"mend what it says, or {_AS_STORED}") from error
