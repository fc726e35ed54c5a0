"""GGUF files: header, names of the torch module, exact dequantisation.

For architectures that share Llama's block layout the names are translated; llama.cpp reorders
the rows of Llama's (and Granite's, SmolLM3's) q and k for its rotary embedding, which is undone,
so that a tensor equals the one in the torch module. Other architectures keep their GGUF names.
"""

import mmap
import re
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch

from kappa_lib.errors import CheckpointError
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
    """The package's reader, but long arrays, such as vocabularies, are without contents: it would
    make four objects of each token, and of as many as a damaged count says."""

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


def open_gguf(path: Path) -> Checkpoint:
    """One GGUF file; CheckpointError where it is none, truncated, big-endian, or a part of one."""
    try:
        reader = Reader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        what = f"{path.name}: not a complete GGUF file ({error})"
        remedy = "fetch it again; where a type is unknown, another quantisation of the model"
        raise CheckpointError(what, remedy) from error
    if reader.endianess != gguf.GGUFEndian.LITTLE:
        remedy = f"turn a copy of it round: gguf-convert-endian {path.name} little"
        raise CheckpointError(f"{path.name}: its byte order is big-endian", remedy)
    # What has been joined keeps a count of 0.
    if (parts := _field(reader, "split.count", 1)) not in (0, 1):
        what = f"{path.name}: one of the {parts!r:.20} parts of a split model"
        raise CheckpointError(what, "join them with `llama-gguf-split --merge`, and scan the whole")
    checkpoint = Checkpoint(str(_field(reader, "general.name", path.stem)), folder=path.parent)
    architecture = str(_field(reader, "general.architecture", ""))
    for tensor in reader.tensors:
        name = module_name(tensor.name, architecture)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        dtype = tensor.tensor_type.name
        if dtype in ("I8", "I16", "I32", "I64"):  # codes have types of their own
            checkpoint.left_out[name] = f"no weights: {dtype}"
            continue
        read = partial(_read, tensor, name, shape, _heads(reader, name, architecture))
        checkpoint.tensors.append(TensorInfo(name, shape, dtype, read, (path.name,)))
    return checkpoint


def _field(reader: gguf.GGUFReader, name: str, default: object) -> object:
    return reader.fields[name].contents() if name in reader.fields else default


def _heads(reader: gguf.GGUFReader, name: str, architecture: str) -> object:
    """How many heads a reordered tensor has, as the file says; None of others."""
    if architecture not in _PERMUTED or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return None
    key = f"{architecture}.attention.head_count"
    heads = _field(reader, key, 0)
    return _field(reader, f"{key}_kv", heads) if "k_proj" in name else heads


def _read(
    tensor: gguf.ReaderTensor, name: str, shape: tuple[int, ...], heads: object
) -> torch.Tensor:
    kind = tensor.tensor_type
    plain = kind == gguf.GGMLQuantizationType.F64  # which the package passes over
    values = tensor.data if plain else gguf.dequantize(tensor.data, kind)
    # A copy of its own, since an unquantised tensor is a view into the mapped file.
    weight = torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))
    # The pages of the mapped file would count as this process's memory.
    if hasattr(mmap, "MADV_DONTNEED"):
        tensor.data._mmap.madvise(mmap.MADV_DONTNEED)
    if heads is None:
        return weight
    if not isinstance(heads, int) or heads < 1 or len(weight) % (2 * heads):
        what = f"{name}: its {len(weight)} rows can't be put in order for {heads!r:.20} heads"
        remedy = "convert the model to GGUF again, or scan the original checkpoint"
        raise CheckpointError(what, remedy)
    # Per head, llama.cpp interleaves the two rotary halves that the module stores in turn.
    halves = weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2)
    return halves.reshape(weight.shape)
