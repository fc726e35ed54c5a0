"""GGUF files: header, names of the torch module, exact dequantisation.

For architectures that share Llama's block layout the names are translated; llama.cpp reorders
the rows of Llama's (and Granite's, SmolLM3's) q and k for its rotary embedding, which is undone,
so that a tensor equals the one in the torch module. Other architectures keep their GGUF names.
"""

import mmap
import re
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
import torch

from kappa_lib.errors import CheckpointError
from kappa_lib.files import sha256
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo

_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "granite", "smollm3")
_PERMUTED = ("llama", "granite", "smollm3")  # whose converters in llama.cpp are Llama's
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_INTEGERS = ("I8", "I16", "I32", "I64")  # codes have types of their own
_LONG = 1000  # entries of an array: more than any list of layers, fewer than a vocabulary
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def module_name(name: str, architecture: str) -> str:
    """The torch module's name of a GGUF tensor, or the name itself if it is not known."""
    if architecture not in _LLAMA_LIKE:
        return name
    stem, _, suffix = name.rpartition(".")
    block = re.match(r"blk\.(\d+)\.(\w+)$", stem)
    if block and block[2] in _BLOCK:
        return f"model.layers.{block[1]}.{_BLOCK[block[2]]}.{suffix}"
    return f"{_OUTER[stem]}.{suffix}" if stem in _OUTER else name


class Reader(gguf.GGUFReader):
    """The package's reader, which passes over vocabularies: it makes four objects of each token.

    Fields that are long arrays are there without contents.
    """

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list, list, list[gguf.GGUFValueType]]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = gguf.GGUFValueType(self._get(orig_offs, np.uint32)[0])
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        at = orig_offs + 12
        if count < _LONG or kind == gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        if kind == gguf.GGUFValueType.STRING:
            view, order = memoryview(self.data), self.endianess.name.lower()
            for _ in range(count):
                at += 8 + int.from_bytes(view[at : at + 8], order)
                if at > len(view):
                    raise ValueError("an array is longer than the file")
        else:
            at += count * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
        return at - orig_offs, [], [], [gguf.GGUFValueType.ARRAY, kind]


class GgufCheckpoint(Checkpoint):
    """One GGUF file.

    Raises:
        CheckpointError: not a GGUF, or truncated.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            reader = Reader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise CheckpointError(
                f"{path.name}: not a complete GGUF file ({error})", "fetch it again"
            ) from error
        if reader.endianess != gguf.GGUFEndian.LITTLE:
            raise CheckpointError(
                f"{path.name}: its byte order is big-endian, for another kind of machine",
                f"turn a copy of it round: gguf-convert-endian {path.name} little",
            )
        self._fields = reader.fields
        self._map = reader.data._mmap
        super().__init__(str(self._field("general.name", path.stem)))
        self._architecture = str(self._field("general.architecture", ""))
        if (parts := self._field("split.count", 1)) != 1:
            raise CheckpointError(
                f"{path.name}: one of the {parts!r:.20} parts of a split model",
                "join them with `llama-gguf-split --merge`, and scan the whole",
            )
        self._tensors = {}
        for tensor in reader.tensors:
            name = module_name(tensor.name, self._architecture)
            shape = tuple(int(n) for n in reversed(tensor.shape))
            dtype = tensor.tensor_type.name
            if dtype in _INTEGERS:
                self.left_out[name] = f"no weights: {dtype}"
                continue
            self._tensors[name] = tensor
            self.tensors.append(TensorInfo(name, shape, dtype, path.name))

    def _field(self, name: str, default: object) -> object:
        return self._fields[name].contents() if name in self._fields else default

    def read(self, info: TensorInfo) -> torch.Tensor:
        tensor = self._tensors[info.name]
        try:
            plain = info.dtype == "F64"  # which the package passes over
            values = tensor.data if plain else gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise CheckpointError(
                f"{info.name}: quantisation {info.dtype} can't be unpacked by gguf",
                "convert the file to another quantisation, or scan the original checkpoint",
            ) from error
        # A copy of its own, since an unquantised tensor is a view into the mapped file.
        weight = torch.from_numpy(np.array(values, dtype=np.float32).reshape(info.shape))
        # The pages of the mapped file would count as this process's memory.
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return self._unpermuted(info.name, weight)

    def _unpermuted(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        if self._architecture not in _PERMUTED:
            return weight
        key = f"{self._architecture}.attention.head_count"
        heads = self._field(key, 0)
        if name.endswith("self_attn.k_proj.weight"):
            key = f"{self._architecture}.attention.head_count_kv"
            heads = self._field(key, heads)
        elif not name.endswith("self_attn.q_proj.weight"):
            return weight
        if not isinstance(heads, int) or heads < 1 or len(weight) % (2 * heads):
            raise CheckpointError(
                f"{name}: its {len(weight)} rows can't be put in order, {key} being {heads!r:.20}",
                "convert the model to GGUF again, or scan the original checkpoint",
            )
        # Per head, llama.cpp interleaves the two rotary halves that the module stores in turn.
        halves = weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2)
        return halves.reshape(weight.shape)

    @cached_property
    def _digest(self) -> str:
        return sha256(self._path)

    def digest(self, info: TensorInfo) -> str:
        return self._digest
