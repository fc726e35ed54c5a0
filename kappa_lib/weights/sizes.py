"""Sizes of the models that profiles name, known before anything is downloaded.

The configurations are the published ones of Meta's, Qwen's and Hugging Face's repositories. Shapes
and counts are those of the modules that transformers makes of them, on torch's meta device, where
no weight takes memory.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.weights import models

if TYPE_CHECKING:
    # Transformers is heavy, and a Llama's shapes are had without: imported where it is needed.
    from transformers import PretrainedConfig


def _layers(
    width: int, layers: int, heads: int, keys: int, inner: int, vocabulary: int, tied: bool
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


def _llama_3(
    width: int, layers: int, heads: int, inner: int, tied: bool, factor: float
) -> dict[str, Any]:
    return _layers(width, layers, heads, 8, inner, 128256, tied) | {
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B-Instruct": _llama_3(4096, 32, 32, 14336, False, 8.0),
    "meta-llama/Llama-3.2-3B-Instruct": _llama_3(3072, 28, 24, 8192, True, 32.0),
    "meta-llama/Llama-3.2-1B-Instruct": _llama_3(2048, 16, 32, 8192, True, 32.0),
    models.DEFAULT: _layers(576, 30, 9, 3, 1536, 49152, True),
    # Their GGUF files hold the output layer once more, so that it is a matrix of its own.
    "qwen2.5-coder-0.5b": _layers(896, 24, 14, 2, 4864, 151936, False),
    "qwen2.5-coder-1.5b": _layers(1536, 28, 12, 2, 8960, 151936, False),
}
ENCODER_WIDTHS = {"whisper-base": 512, "openai/whisper-large-v3": 1280}


@dataclass(frozen=True)
class LanguageModel:
    """A decoder in numbers.

    Attributes:
        width: of its hidden states.
        layers: how many.
        shapes: module path inside a layer → (out, in) of its matrix, in the order of storage.
        parameters: all of them, tied embeddings once.
    """

    width: int
    layers: int
    shapes: dict[str, tuple[int, int]]
    parameters: int


def llama_config(model: str) -> "PretrainedConfig":
    """The configuration of a profile's ``model``: known here, or a local folder's own.

    Raises:
        InputError: neither; nothing is downloaded to find out.
    """
    from transformers import AutoConfig

    if model in CONFIGS:
        kind = "qwen2" if model.startswith("qwen2") else "llama"
        return AutoConfig.for_model(kind, **CONFIGS[model])
    if (paths.expanded(model) / "config.json").is_file():
        return AutoConfig.from_pretrained(paths.expanded(model))
    raise InputError(
        f"the sizes of {model!r} are not known before it is downloaded",
        f"use a local folder, or one of {', '.join(CONFIGS)}",
    )


def llama_layer(model: str) -> tuple[dict[str, tuple[int, int]], int]:
    """:class:`LanguageModel`'s ``shapes`` and ``layers`` of one of ``CONFIGS``, from it alone."""
    config = CONFIGS[model]
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    ends = {"q": (width, width), "k": (keys, width), "v": (keys, width), "o": (width, width)}
    shapes = {f"self_attn.{name}_proj": shape for name, shape in ends.items()}
    ends = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    shapes |= {f"mlp.{name}_proj": shape for name, shape in ends.items()}
    return shapes, config["num_hidden_layers"]


def language_model(config: "PretrainedConfig") -> LanguageModel:
    """Count a language model's parameters, and find the matrices of its first layer.

    Raises:
        InputError: its configuration is not of Llama's kind.
    """
    from transformers import AutoModelForCausalLM

    if not hasattr(config, "intermediate_size"):
        raise InputError(
            f"a {config.model_type} is not laid out like a Llama", "plan for a model that is"
        )
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    first = "model.layers.0."
    shapes = {
        name.removeprefix(first).removesuffix(".weight"): tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if name.startswith(first) and parameter.ndim == 2
    }
    return LanguageModel(
        config.hidden_size, config.num_hidden_layers, shapes, module.num_parameters()
    )


def encoder_width(name: str) -> int:
    """Features a frame of a profile's ``encoder``: known here, or a local Hugging Face folder's.

    Raises:
        InputError: neither.
    """
    from transformers import AutoConfig

    folder = paths.expanded(name)
    if name in ENCODER_WIDTHS:
        return ENCODER_WIDTHS[name]
    if (folder / "config.json").is_file() and not (folder / "model.bin").is_file():
        return AutoConfig.from_pretrained(folder).d_model
    raise InputError(
        f"the sizes of the encoder {name!r} are not known",
        f"use a Hugging Face folder, or one of {', '.join(ENCODER_WIDTHS)}",
    )
