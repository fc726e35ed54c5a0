"""Sizes of the models that profiles name, known before anything is downloaded.

The configurations are the published ones of Meta's and Hugging Face's repositories, of OpenAI's
Whisper; the numbers of parameters follow from them.
"""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, LlamaConfig

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.speech.encoder import DEFAULT as WHISPER_BASE
from kappa_lib.training.model import STACK
from kappa_lib.weights import models


def _rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


_LLAMA_3: dict[str, Any] = {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "num_key_value_heads": 8,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B-Instruct": {
        **_LLAMA_3,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
        "tie_word_embeddings": False,
        "rope_scaling": _rope(8.0),
    },
    "meta-llama/Llama-3.2-3B-Instruct": {
        **_LLAMA_3,
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
        "rope_scaling": _rope(32.0),
    },
    "meta-llama/Llama-3.2-1B-Instruct": {
        **_LLAMA_3,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
        "rope_scaling": _rope(32.0),
    },
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


@dataclass(frozen=True)
class EncoderSize:
    """A Whisper encoder: features a frame, layers, mel bands, width of its MLP, download."""

    width: int
    layers: int
    bands: int
    inner: int
    download: int  # bytes of the checkpoint, decoder included

    @property
    def parameters(self) -> int:
        """Parameters of the encoder alone, its fixed positions included."""
        d, inner = self.width, self.inner
        convolutions = 3 * d * self.bands + d + 3 * d * d + d
        layer = 4 * d * d + 3 * d + 2 * d * inner + inner + d + 4 * d
        return convolutions + 1500 * d + self.layers * layer + 2 * d


ENCODERS = {
    WHISPER_BASE: EncoderSize(512, 6, 80, 2048, 145_000_000),
    "openai/whisper-large-v3": EncoderSize(1280, 32, 128, 5120, 3_090_000_000),
}


def llama_config(model: str) -> LlamaConfig:
    """The configuration of a profile's ``model``: known here, or a local folder's own.

    Raises:
        InputError: neither; nothing is downloaded to find out.
    """
    if model in CONFIGS:
        return LlamaConfig(**CONFIGS[model])
    if (paths.expanded(model) / "config.json").is_file():
        return AutoConfig.from_pretrained(paths.expanded(model))
    raise InputError(
        f"the sizes of {model!r} are not known before it is downloaded",
        f"use a local folder, or one of {', '.join(CONFIGS)}",
    )


def encoder_size(encoder: str) -> EncoderSize:
    """Sizes of a profile's ``encoder``: known here, or a local Hugging Face folder's own.

    Raises:
        InputError: neither.
    """
    if encoder in ENCODERS:
        return ENCODERS[encoder]
    folder = paths.expanded(encoder)
    if not (folder / "config.json").is_file() or (folder / "model.bin").is_file():
        raise InputError(
            f"the sizes of the encoder {encoder!r} are not known",
            f"use a Hugging Face folder, or one of {', '.join(ENCODERS)}",
        )
    found = AutoConfig.from_pretrained(folder)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return EncoderSize(
        found.d_model, found.encoder_layers, found.num_mel_bins, found.encoder_ffn_dim, stored
    )


def matrix_shapes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of the seven matrices of a decoder layer, in the order of storage."""
    width, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    return {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }


def layer_matrices(config: LlamaConfig) -> int:
    """Parameters in the matrices of all decoder layers: what costs arithmetic at each position."""
    each = sum(rows * cols for rows, cols in matrix_shapes(config).values())
    return config.num_hidden_layers * each


def parameters(config: LlamaConfig) -> int:
    """All parameters of the language model, tied embeddings once."""
    tables = 1 if config.tie_word_embeddings else 2
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    return layer_matrices(config) + tables * config.vocab_size * config.hidden_size + norms


def adaptor_parameters(encoder_width: int, width: int) -> int:
    """Parameters of :class:`kappa_lib.training.model.Adaptor`."""
    project = STACK * encoder_width * width + width
    attention = 4 * width * width + 4 * width
    return project + 2 * attention + 4 * 2 * width
