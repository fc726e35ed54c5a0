"""Whisper's encoder out of CTranslate2's file format, as a module of transformers.

The pinned encoder is a CTranslate2 ``model.bin``. Converted, the very same weights run in torch
(any device torch has, and with gradients), and the two back ends can be held against each other.

The binary format, all little-endian, is what ``ctranslate2.specs.ModelSpec`` writes: version,
name and revision of the specification, the variables (name, shape, type, bytes), the aliases.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig
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
    try:
        reader = _Reader(path)
        if (version := reader.numbers("I")[0]) != VERSION:
            raise CheckpointError(
                f"{path}: binary version {version} instead of {VERSION}",
                "convert the model with a current CTranslate2",
            )
        reader.string(), reader.numbers("I")
        return dict(reader.variable() for _ in range(reader.numbers("I")[0]))
    except ValueError as error:  # empty, no text where a name should be, a size of no shape
        raise CheckpointError(f"{path}: damaged: {error}", "fetch it again") from error


def _state(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """State of transformers' encoder, in fp32."""
    state: dict[str, Tensor] = {}

    def get(name: str) -> Tensor:
        return torch.from_numpy(variables[f"encoder/{name}"].astype(np.float32))

    def keep(ours: str, theirs: str) -> None:
        scale, shift = ("gamma", "beta") if theirs.endswith("layer_norm") else ("weight", "bias")
        state[f"{ours}.weight"] = get(f"{theirs}/{scale}")
        state[f"{ours}.bias"] = get(f"{theirs}/{shift}")

    state["embed_positions.weight"] = get("position_encodings/encodings")
    for name in ("layer_norm", "conv1", "conv2"):
        keep(name, name)
    stored = [name for name in variables if name.startswith("encoder/")]
    for layer in range(sum(name.endswith("ffn/linear_0/weight") for name in stored)):
        ours, theirs = f"layers.{layer}", f"layer_{layer}"
        for name, place in _LAYER.items():
            keep(f"{ours}.{name}", f"{theirs}/{place}")
        # CTranslate2 stacks query, key and value; Whisper's key has no bias, its third is zero.
        fused = f"{theirs}/self_attention/linear_0"
        weights, biases = (get(f"{fused}/{kind}").chunk(3) for kind in ("weight", "bias"))
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"{ours}.self_attn.{letter}_proj.weight"] = weight.contiguous()
            if letter != "k":
                state[f"{ours}.self_attn.{letter}_proj.bias"] = bias.contiguous()
    return state


def convert(source: Path, target: Path) -> Path:
    """Write the encoder of a folder with ``model.bin`` as a Hugging Face folder, ``target``.

    A profile can name that as its ``encoder``.

    Raises:
        CheckpointError: not a Whisper model, or not readable.
    """
    variables = read_variables(source / "model.bin")
    try:
        state = _state(variables)
        width, bands, _ = state["conv1.weight"].shape
        config = WhisperConfig(
            d_model=width,
            num_mel_bins=bands,
            max_source_positions=len(state["embed_positions.weight"]),
            encoder_layers=sum(name.endswith("fc1.weight") for name in state),
            encoder_attention_heads=int(variables["encoder/num_heads"]),
            encoder_ffn_dim=len(state["layers.0.fc1.weight"]),
        )
        encoder = WhisperEncoder(config)
        encoder.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{source}: its variables are not those of a Whisper encoder: {first_line(error)}"
        raise CheckpointError(what, "convert a Whisper model") from error
    with replacing(target) as temporary:
        encoder.save_pretrained(temporary)
    return target
