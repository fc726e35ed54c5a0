"""Packed 8- and 4-bit weights in safetensors: turned into numbers, or refused by name.

Understood: bitsandbytes LLM.int8 (``SCB``), bitsandbytes NF4/FP4 with plain or nested scales,
and FP8 with a scale per tensor, per row or per block. Everything else that stores integers
where weights are expected is refused: codes have singular values too, of no meaning.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kappa_lib.errors import CheckpointError, InputError
from kappa_lib.files import fits, parse

_FP8_BLOCK = 128
_BLOCK_LIMIT = 2**16  # of bitsandbytes' blocks; its largest is 4096
_STATE = {"shape": list[int], "blocksize": int, "quant_type": str}
_STATE |= {"nested_blocksize": int | None, "nested_offset": float | None}
Reader = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one packed tensor becomes float32.

    Attributes:
        label: stored dtype for the κ table.
        shape: of the unpacked tensor.
        parts: helper tensors that are not weights themselves.
        unpack: reads what it needs through the given reader.
    """

    label: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    unpack: Callable[[Reader], torch.Tensor]


def unknown(name: str, dtype: str) -> CheckpointError:
    """The refusal of a tensor whose packing is not understood."""
    return CheckpointError(
        f"{name}: packed as {dtype} in a layout that is not understood",
        "scan the unquantised checkpoint, or a GGUF of it",
    )


def recipes(stored: Mapping[str, Any], read: Reader) -> dict[str, Recipe]:
    """Recipes for the packed tensors among ``stored`` (name → entry with dtype and shape).

    Args:
        stored: header entries of all shards.
        read: reads one stored tensor; used here only for bitsandbytes' small state records.
    """
    found: dict[str, Recipe] = {}
    for name, entry in stored.items():
        base = name.removesuffix(".weight")
        states = (f"{name}.quant_state.bitsandbytes__{quant}" for quant in ("nf4", "fp4"))
        state = next((key for key in states if key in stored), None)
        scale = next((s for s in _scale_names(base) if s in stored), None)
        if entry.dtype == "I8" and f"{base}.SCB" in stored:
            found[name] = _int8(name, entry.shape, f"{base}.SCB", stored)
        elif entry.dtype == "U8" and state:
            if recipe := _four_bit(name, state, stored, read):
                found[name] = recipe
        elif entry.dtype.startswith("F8") and scale:
            found[name] = _fp8(name, entry, scale)
    return found


def _int8(name: str, shape: tuple[int, ...], scb: str, stored: Mapping[str, Any]) -> Recipe:
    """LLM.int8: each row was scaled by its largest magnitude, kept in SCB, to fill ±127."""

    def unpack(read: Reader) -> torch.Tensor:
        return read(name).float() * (read(scb).float().reshape(shape[0], 1) / 127.0)

    parts = tuple(p for p in (scb, name.removesuffix("weight") + "weight_format") if p in stored)
    return Recipe("I8+SCB", shape, parts, unpack)


def _four_bit(name: str, state_name: str, stored: Mapping[str, Any], read: Reader) -> Recipe | None:
    """NF4 or FP4 codes; None where their state record is not one, so that they are refused."""
    try:
        state = parse(read(state_name).numpy().tobytes(), state_name, dict[str, object])
    except InputError:
        return None
    shape, count = state.get("shape"), 2 * math.prod(stored[name].shape)
    if not (
        all(fits(state.get(key), kind) for key, kind in _STATE.items())
        and min(shape, default=0) > 0
        and count - 1 <= math.prod(shape) <= count
        and 0 < state["blocksize"] <= _BLOCK_LIMIT
        and 0 < state.get("nested_blocksize", 1) <= _BLOCK_LIMIT
    ):
        return None
    shape = tuple(shape)

    def unpack(read: Reader) -> torch.Tensor:
        scales = _scales(name, state, read)
        codes = read(name).reshape(-1)
        values = read(f"{name}.quant_map").float()
        # The high half of a byte is the earlier weight.
        pairs = torch.stack([values[(codes >> 4).long()], values[(codes & 15).long()]], dim=1)
        numbers = pairs.reshape(-1)[: math.prod(shape)]
        per_number = scales.repeat_interleave(state["blocksize"])[: len(numbers)]
        return (numbers * per_number).reshape(shape)

    parts = tuple(key for key in stored if key.startswith(f"{name}."))
    return Recipe(state["quant_type"].upper(), shape, parts, unpack)


def _scales(name: str, state: dict[str, Any], read: Reader) -> torch.Tensor:
    """One scale per block; with nested quantisation the scales are themselves 8-bit codes."""
    absmax = read(f"{name}.absmax")
    if absmax.is_floating_point():
        return absmax.float()
    values = read(f"{name}.nested_quant_map").float()[absmax.long()]
    outer = read(f"{name}.nested_absmax").float().repeat_interleave(state["nested_blocksize"])
    return values * outer[: len(values)] + state["nested_offset"]


def _scale_names(base: str) -> tuple[str, str]:
    return f"{base}.weight_scale_inv", f"{base}.weight_scale"


def _fp8(name: str, entry: Any, scale_name: str) -> Recipe:
    """FP8 times its scale; ``_inv`` in DeepSeek's name notwithstanding, both multiply."""

    def unpack(read: Reader) -> torch.Tensor:
        values = read(name).float()
        return values * _spread(scale_name, read(scale_name).float(), values.shape)

    return Recipe(entry.dtype, entry.shape, (scale_name,), unpack)


def _spread(name: str, scale: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A scale per tensor, per row or per 128×128 block, made to broadcast over ``shape``."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows, cols = shape
    if scale.numel() == rows:
        return scale.reshape(rows, 1)
    if scale.shape == (-(-rows // _FP8_BLOCK), -(-cols // _FP8_BLOCK)):
        wide = scale.repeat_interleave(_FP8_BLOCK, 0).repeat_interleave(_FP8_BLOCK, 1)
        return wide[:rows, :cols]
    raise CheckpointError(
        f"{name}: scales {tuple(scale.shape)} fit no known layout of a weight {tuple(shape)}",
        "scan the unquantised checkpoint",
    )
