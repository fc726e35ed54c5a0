"""Whisper's encoder and decoder out of CTranslate2's file format, as modules of transformers.

The pinned encoder is a CTranslate2 ``model.bin``. Converted, the very same weights run in torch
(any device torch has, and with gradients), and the two back ends can be held against each other.

The binary format, all little-endian, is what ``ctranslate2.specs.ModelSpec`` writes: version,
name and revision of the specification, the variables (name, shape, type, bytes), the aliases.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForCausalLM
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from kappa_lib.errors import CheckpointError, first_line
from kappa_lib.files import replacing

VERSION = 6
# In the order of CTranslate2's DataType; bfloat16 has no numpy type and is not needed here.
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_LAYER = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "self_attn.out_proj": "self_attention/linear_1",
    "final_layer_norm": "ffn/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}
_CROSS = {
    "encoder_attn_layer_norm": "attention/layer_norm",
    "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2",
}


class _Reader:
    """Fields of a ``model.bin`` one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def take(self, count: int) -> np.ndarray:
        if self.at + count > len(self.bytes):
            raise CheckpointError(
                f"{self.path}: ends after {len(self.bytes):,} bytes, inside a variable",
                "the file is truncated: fetch it again",
            )
        self.at += count
        return self.bytes[self.at - count : self.at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")).tobytes())

    def string(self) -> str:
        return self.take(self.numbers("H")[0]).tobytes()[:-1].decode()

    def variable(self) -> tuple[str, np.ndarray]:
        name = self.string()
        shape = self.numbers("I" * self.numbers("B")[0])
        kind, size = self.numbers("BI")
        if kind >= len(_TYPES):
            raise CheckpointError(
                f"{self.path}: {name} is of type number {kind}", "convert a float32 or float16 file"
            )
        return name, self.take(size).view(_TYPES[kind]).reshape(shape)


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 ``model.bin``, mapped from the disk, by name.

    Raises:
        CheckpointError: another version of the format, a truncated file, an unknown type.
    """
    reader = _Reader(path)
    version = reader.numbers("I")[0]
    if version != VERSION:
        raise CheckpointError(
            f"{path}: binary version {version} instead of {VERSION}",
            "convert the model with a current CTranslate2",
        )
    try:
        reader.string(), reader.numbers("I")
        return dict(reader.variable() for _ in range(reader.numbers("I")[0]))
    except ValueError as error:  # no text where a name should be, or a size that fits no shape
        raise CheckpointError(f"{path}: damaged: {error}", "fetch it again") from error


def encoder_state(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """State of ``WhisperEncoder``, fp32, from a Whisper model's CTranslate2 variables."""

    def get(name: str) -> Tensor:
        return torch.from_numpy(variables[f"encoder/{name}"].astype(np.float32))

    state = {"embed_positions.weight": get("position_encodings/encodings")}
    for convolution in ("conv1", "conv2"):
        _pair(state, convolution, get, convolution)
    _pair(state, "layer_norm", get, "layer_norm")
    for layer in range(_count_layers(variables, "encoder")):
        for ours, theirs in _LAYER.items():
            _pair(state, f"layers.{layer}.{ours}", get, f"layer_{layer}/{theirs}")
        fused = f"layer_{layer}/self_attention/linear_0"
        _split(state, f"layers.{layer}.self_attn", "qkv", get, fused)
    return state


def decoder(source: Path) -> WhisperForCausalLM:
    """The decoder of a CTranslate2 folder, fp32 and frozen; it reads what the encoder gives.

    Args:
        source: folder with ``model.bin``.

    Raises:
        CheckpointError: not a Whisper model, or not readable.
    """
    variables = read_variables(source / "model.bin")

    def get(name: str) -> Tensor:
        return torch.from_numpy(variables[f"decoder/{name}"].astype(np.float32))

    try:
        positions, tokens = get("position_encodings/encodings"), get("embeddings/weight")
        state = {"embed_positions.weight": positions, "embed_tokens.weight": tokens}
        _pair(state, "layer_norm", get, "layer_norm")
        for layer in range(_count_layers(variables, "decoder")):
            ours, theirs = f"layers.{layer}", f"layer_{layer}"
            for part, name in (_LAYER | _CROSS).items():
                _pair(state, f"{ours}.{part}", get, f"{theirs}/{name}")
            _split(state, f"{ours}.self_attn", "qkv", get, f"{theirs}/self_attention/linear_0")
            _split(state, f"{ours}.encoder_attn", "kv", get, f"{theirs}/attention/linear_1")
        config = WhisperConfig(
            vocab_size=len(tokens),
            pad_token_id=None,
            d_model=tokens.shape[1],
            decoder_layers=_count_layers(variables, "decoder"),
            decoder_attention_heads=int(variables["decoder/num_heads"]),
            decoder_ffn_dim=len(get("layer_0/ffn/linear_0/weight")),
            max_target_positions=len(positions),
        )
        model = WhisperForCausalLM(config)
        model.get_decoder().load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        what = f"{source}: its variables are not those of a Whisper decoder: {first_line(error)}"
        raise CheckpointError(what, "convert a Whisper model") from error
    return model.eval().requires_grad_(False)


def _split(
    state: dict[str, Tensor], ours: str, parts: str, get: Callable[[str], Tensor], fused: str
) -> None:
    """CTranslate2 stacks query, key and value; Whisper's key has no bias, its third is zero."""
    weights, biases = (get(f"{fused}/{kind}").chunk(len(parts)) for kind in ("weight", "bias"))
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        state[f"{ours}.{part}_proj.weight"] = weight.contiguous()
        if part != "k":
            state[f"{ours}.{part}_proj.bias"] = bias.contiguous()


def _pair(state: dict[str, Tensor], ours: str, get: Callable[[str], Tensor], theirs: str) -> None:
    scale, shift = ("gamma", "beta") if theirs.endswith("layer_norm") else ("weight", "bias")
    state[f"{ours}.weight"], state[f"{ours}.bias"] = (
        get(f"{theirs}/{scale}"),
        get(f"{theirs}/{shift}"),
    )


def _count_layers(variables: dict[str, np.ndarray], part: str) -> int:
    names = (name for name in variables if name.startswith(part))
    return sum(name.endswith("ffn/linear_0/weight") for name in names)


def encoder_config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    """The encoder's sizes, read off the shapes of its variables."""
    width, bands, _ = variables["encoder/conv1/weight"].shape
    return WhisperConfig(
        d_model=width,
        num_mel_bins=bands,
        encoder_layers=_count_layers(variables, "encoder"),
        encoder_attention_heads=int(variables["encoder/num_heads"]),
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
    )


def convert(source: Path, target: Path) -> Path:
    """Write the encoder of a CTranslate2 folder as ``config.json`` and ``model.safetensors``.

    Args:
        source: folder with ``model.bin``.
        target: folder to make; a profile can name it as its ``encoder``.

    Raises:
        CheckpointError: not a Whisper model, or not readable.
    """
    path = source / "model.bin"
    variables = read_variables(path)
    if not any(name.startswith("encoder/conv1") for name in variables):
        raise CheckpointError(f"{path}: no Whisper encoder in it", "convert a Whisper model")
    try:
        encoder = WhisperEncoder(encoder_config(variables))
        encoder.load_state_dict(encoder_state(variables))
    except (KeyError, ValueError, RuntimeError) as error:
        what = f"{path}: its variables are not those of a Whisper encoder: {first_line(error)}"
        raise CheckpointError(what, "convert the model again") from error
    with replacing(target) as temporary:
        encoder.save_pretrained(temporary)
    return target
