"""Packed weights among stored tensors: unpacked by what is stored beside the codes, or refused.

Unpacked are bitsandbytes' NF4 and FP4, plain or nested, whatever type carries the bytes; its
LLM.int8 (``SCB``); and 8-bit codes, FP8 or integers, with a scale a tensor, row, group of columns
or block. All else that stores codes is refused as a whole.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field

from kappa_lib.errors import InputError
from kappa_lib.files import parse
from kappa_lib.weights.checkpoint import TensorInfo, files_of, refusal, replaced

FLOATS = ("F64", "F32", "F16", "BF16")
_EIGHT_BIT = ("I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_NO_CODES = ("I64", "U64", "BOOL", "C64")  # positions, masks, rotations
_LOCAL = re.compile(r"(?s)(?:(.*?)\.)?(weight[.:].+|[^.]*)")  # module, and the name in it
# What only packed weights have beside them; of other helpers the type of the codes tells.
_MARK = re.compile(
    r"SCB|pre_quant_scale|q_?weight|q_?zeros|W_q|bitmask|g_idx|codebooks|\w+_blocks|\w+_scale_inv"
    r"|\w*weight[_.:]\w*(scale|zero|packed|shape|absmax|quant|data|shift|g_idx)\w*"
)
# Behind the name of a packed module: one in it that keeps a part of the weight.
_PART = r"\.\w*(centroid|codebook|scale|zero|quant)\w*\.[^.]+"
_STATE = ".quant_state.bitsandbytes__"
_BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_Module = dict[str, TensorInfo]  # the tensors of one module by their names in it
_Block = Annotated[int, Field(gt=0, le=2**16)]  # of bitsandbytes' blocks; its largest is 4096


def unpacked(
    stored: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The weights by name, and why each of the other tensors is left out; that some are packed
    may be said by the model's configuration."""
    made, hidden = _four_bit(stored)
    left_out: dict[str, str] = {}
    record = _record(config)
    modules: dict[str, _Module] = {}  # name of a module → its tensors
    for name in (name for name in stored if name not in hidden):
        module, local = _LOCAL.fullmatch(name).groups("")
        modules.setdefault(module, {})[local] = stored[name]
    for module, own in modules.items():
        held = {local: info for local, info in own.items() if not local.endswith("bias")}
        found, parts = _eight_bit(held, record)
        rest = {local: held[local] for local in held if local not in parts | found.keys()}
        if codes := _codes(module, rest, record):
            first = "weight" if "weight" in held else codes[0]
            made[held[first].name] = _not_understood(held[first], held.keys() - {first})
            hidden |= {info.name for info in held.values()}
            inner = re.compile(re.escape(module) + _PART)
            hidden |= {name for name in stored if module and inner.fullmatch(name)}
            continue
        made |= {held[local].name: weight for local, weight in found.items()}
        hidden |= {held[local].name for local in parts}
        odd = [info for info in rest.values() if info.dtype not in FLOATS]
        left_out |= {info.name: f"no weights: {info.dtype}" for info in odd}
    return replaced(stored, made, hidden | left_out.keys()), left_out


def _record(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the configuration says of the packing; empty where it says nothing."""
    for place in (config, config.get("text_config")):
        record = place.get("quantization_config") if isinstance(place, dict) else None
        if record and isinstance(record, dict):
            return record
    return {}


def _codes(module: str, held: _Module, record: Mapping[str, Any]) -> list[str]:
    """Which tensors of a module give away that it holds a packed weight; none where it does not."""
    odd = [local for local, info in held.items() if info.dtype not in FLOATS]
    if found := [x for x in held if _MARK.fullmatch(x) or (x in odd and x.endswith("weight"))]:
        return odd + found
    wide = [x for x in odd if len(held[x].shape) > 1 and held[x].shape[:2] != (1, 1)]
    weight = held["weight"].shape if "weight" in held else ()
    # A mask of the weight's own shape acts on it; codes in a wide type lie in a single column.
    masks = [local for local in wide if held[local].shape == weight]
    if record and len(weight) == 2 and weight[1] == 1:
        return ["weight"]
    codes = [local for local in wide if held[local].dtype not in _NO_CODES]
    scaled = any(len(held[x].shape) > 1 for x in held.keys() - {*odd, "weight"})
    return masks or (codes if record or (module and scaled) else [])


def _not_understood(part: TensorInfo, others: Iterable[str]) -> TensorInfo:
    """A packed weight that can't be read here, under the name of one of its parts."""
    beside = ", ".join(sorted(others)) or "nothing else"
    what = f"{part.name}: packed as {part.dtype} with {beside}, a layout that is not understood"
    return refusal(part, what, "scan the unquantised checkpoint, or a GGUF of it")


def _four_bit(stored: Mapping[str, TensorInfo]) -> tuple[dict[str, TensorInfo], set[str]]:
    """Weights in bitsandbytes' 4 bits, each with a record of its state, and all their parts."""
    made, hidden = {}, set()
    for state_name in stored:
        name, found, kind = state_name.partition(_STATE)
        if not found or name not in stored:
            continue
        codes = stored[name]
        parts = {part: stored[key] for part in _BESIDE if (key := f"{name}.{part}") in stored}
        hidden |= {name, state_name, *(f"{name}.{part}" for part in parts)}
        try:
            state = parse(stored[state_name].read().numpy().tobytes(), "it", _State)
        except InputError:
            made[name] = _not_understood(codes, parts)
            continue
        unpack, shape = partial(_unpack_four_bit, codes, parts, state), tuple(state.shape)
        files = files_of([codes, *parts.values()])
        made[name] = replace(codes, shape=shape, dtype=kind.upper(), source=unpack, files=files)
    return made, hidden


class _State(BaseModel):
    """What bitsandbytes records beside a weight in 4 bits, as far as it is needed."""

    shape: list[Annotated[int, Field(gt=0, lt=2**63)]] = Field(min_length=1)
    blocksize: _Block
    quant_type: str
    nested_blocksize: _Block | None = None
    nested_offset: float | None = None


def _unpack_four_bit(
    codes: TensorInfo, parts: Mapping[str, TensorInfo], state: _State
) -> torch.Tensor:
    scales = parts["absmax"].read()
    if not scales.is_floating_point():  # nested: the scales are themselves 8-bit codes
        outer = parts["nested_absmax"].read().float()
        outer = outer.repeat_interleave(state.nested_blocksize)
        inner = parts["nested_quant_map"].read().float()[scales.long()]
        scales = inner * outer[: len(inner)] + state.nested_offset
    # Whatever type carries them, the codes are its bytes.
    packed = codes.read().contiguous().reshape(-1).view(torch.uint8)
    count = math.prod(state.shape)
    if len(packed) != -(-count // 2):
        raise ValueError("more or fewer codes than weights")
    values = parts["quant_map"].read().float()
    # The high half of a byte is the earlier weight.
    pairs = torch.stack([values[(packed >> 4).long()], values[(packed & 15).long()]], dim=1)
    numbers = pairs.reshape(-1)[:count]
    per_number = scales.float().repeat_interleave(state.blocksize)[:count]
    return (numbers * per_number).reshape(state.shape)


def _eight_bit(held: _Module, record: Mapping[str, Any]) -> tuple[_Module, set[str]]:
    """Weights of a module in 8-bit codes with scales, and the names of their helpers."""
    found, helpers = {}, set()
    for local, codes in held.items():
        scales = ["SCB"] if local == "weight" and codes.dtype == "I8" else []
        scales += [f"{local}_scale_inv", f"{local}_scale"]
        # Scales in whole numbers are codes, too: MXFP8's are exponents. Bytes with a scale of
        # exponents hold two numbers of four bits.
        floats = FLOATS if codes.dtype == "I8" else (*FLOATS, "F8_E8M0")
        scale = next((x for x in scales if x in held and held[x].dtype in floats), None)
        if codes.dtype not in _EIGHT_BIT or scale is None:
            continue
        beside = [scale, f"{local}_zero_point", "weight_format"]
        parts = [codes, *(held.get(x) for x in beside)]
        unpack = partial(_unpack_eight_bit, *parts, record)
        label = "I8+SCB" if scale == "SCB" else codes.dtype
        files = files_of(part for part in parts if part)
        found[local] = replace(codes, dtype=label, source=unpack, files=files)
        helpers |= {*beside} & held.keys()
    return found, helpers


def _unpack_eight_bit(
    codes: TensorInfo,
    scale: TensorInfo,
    zero: TensorInfo | None,
    layout: TensorInfo | None,
    record: Mapping[str, Any],
) -> torch.Tensor:
    """Codes times scale; ``_inv`` in DeepSeek's name notwithstanding, all kinds multiply."""
    if layout is not None and layout.read().any():
        raise ValueError("weight_format says that its numbers lie in tiles, as older kernels did")
    numbers, factor = codes.read().float(), scale.read().float()
    block = record.get("weight_block_size")
    pair = isinstance(block, list) and [type(side) for side in block] == [int, int]
    block = tuple(block) if pair else (128, 128)
    if scale.name.endswith("SCB"):  # the largest magnitude of each row, which was brought to 127
        factor = factor.reshape(-1, 1) / 127.0
    if zero is not None:
        numbers = numbers - _spread(zero.read().float(), numbers.shape, block)
    return numbers * _spread(factor, numbers.shape, block)


def _spread(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    """A scale for each weight, by the shape of what is stored."""
    *lead, rows, cols = shape
    if scale.numel() == 1:
        return scale.reshape(())
    # As many blocks as rows there may be, too.
    if scale.shape in ((*lead, rows), (*lead, rows, 1)):
        return scale.reshape(*lead, rows, 1)
    if scale.shape == (*lead, -(-rows // block[0]), -(-cols // block[1])):
        wide = scale.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
        return wide[..., :rows, :cols]
    if scale.shape[:-1] == (*lead, rows) and cols % scale.shape[-1] == 0:
        return scale.repeat_interleave(cols // scale.shape[-1], -1)
    raise ValueError(f"scales {tuple(scale.shape)} fit no known layout of {tuple(shape)}")
