"""Sizes of the models that profiles name, known before anything is downloaded.

The configurations are the published ones of Meta's and Hugging Face's repositories, and of OpenAI's
Whisper. Shapes and counts are those of the modules that transformers makes of them, on torch's
meta device, where no weight takes memory.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.weights import models

if TYPE_CHECKING:
    # Transformers is heavy, and a Llama's shapes are had without: imported where it is needed.
    from transformers import PretrainedConfig, WhisperConfig


def _llama_3(
    width: int, layers: int, heads: int, inner: int, tied: bool, factor: float
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": inner,
        "tie_word_embeddings": tied,
        "vocab_size": 128256,
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
    models.DEFAULT: {
        "vocab_size": 49152,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "tie_word_embeddings": True,
    },
}
# Width, layers, mel bands, width of the MLP; bytes of the checkpoint, decoder included.
ENCODERS = {
    "whisper-base": ((512, 6, 80, 2048), 145_000_000),
    "openai/whisper-large-v3": ((1280, 32, 128, 5120), 3_090_000_000),
}


@dataclass(frozen=True)
class LanguageModel:
    """A decoder in numbers.

    Attributes:
        width, inner, layers, vocabulary: as in its configuration.
        shapes: module path inside a layer → (out, in) of its matrix, in the order of storage.
        parameters: all of them, tied embeddings once.
        tables: parameters of the token embeddings and, where it is another, the output layer.
    """

    width: int
    inner: int
    layers: int
    vocabulary: int
    shapes: dict[str, tuple[int, int]]
    parameters: int
    tables: int

    @property
    def matrices(self) -> int:
        """Parameters in all layers' matrices: what costs arithmetic at each position."""
        return self.layers * sum(rows * cols for rows, cols in self.shapes.values())

    @property
    def keys(self) -> int:
        """Width of the keys, and of the values, of a layer."""
        return self.shapes["self_attn.k_proj"][0]


@dataclass(frozen=True)
class Encoder:
    """A speech encoder in numbers: features a frame, parameters, bytes of its checkpoint."""

    width: int
    parameters: int
    download: int


def llama_config(model: str) -> "PretrainedConfig":
    """The configuration of a profile's ``model``: known here, or a local folder's own.

    Raises:
        InputError: neither; nothing is downloaded to find out.
    """
    from transformers import AutoConfig, LlamaConfig

    if model in CONFIGS:
        return LlamaConfig(**CONFIGS[model])
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


def llama_parameters(model: str) -> int:
    """:class:`LanguageModel`'s ``parameters`` of one of ``CONFIGS``, from it alone."""
    config, (shapes, layers) = CONFIGS[model], llama_layer(model)
    tables = (1 if config["tie_word_embeddings"] else 2) * config["vocab_size"]
    norms = 2 * layers + 1
    matrices = sum(rows * cols for rows, cols in shapes.values())
    return layers * matrices + (tables + norms) * config["hidden_size"]


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
    # A tied table is one tensor, and once in the set.
    tables = {module.get_input_embeddings().weight, module.get_output_embeddings().weight}
    return LanguageModel(
        width=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        shapes={
            name.removeprefix(first).removesuffix(".weight"): tuple(p.shape)
            for name, p in module.named_parameters()
            if name.startswith(first) and p.ndim == 2
        },
        parameters=module.num_parameters(),
        tables=sum(weight.numel() for weight in tables),
    )


def whisper_config(name: str) -> "WhisperConfig":
    """The configuration of one of ``ENCODERS``; of its decoder nothing is said."""
    from transformers import WhisperConfig

    width, layers, bands, inner = ENCODERS[name][0]
    return WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=inner,
        num_mel_bins=bands,
    )


def encoder(name: str) -> Encoder:
    """Sizes of a profile's ``encoder``: known here, or a local Hugging Face folder's own.

    Raises:
        InputError: neither.
    """
    from transformers import AutoConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    folder = paths.expanded(name)
    if name in ENCODERS:
        config, download = whisper_config(name), ENCODERS[name][1]
    elif (folder / "config.json").is_file() and not (folder / "model.bin").is_file():
        config = AutoConfig.from_pretrained(folder)
        download = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    else:
        raise InputError(
            f"the sizes of the encoder {name!r} are not known",
            f"use a Hugging Face folder, or one of {', '.join(ENCODERS)}",
        )
    with torch.device("meta"):
        module = WhisperEncoder(config)
    return Encoder(config.d_model, module.num_parameters(), download)
