"""Safetensors shards, read by their header, a tensor's own bytes at a time; packed ones unpacked.

Plain file reads and not a memory map: mapped pages count as this process's memory until the
system takes them back, which would hide that one tensor is held at a time.

Packings understood: bitsandbytes LLM.int8 (``SCB``), bitsandbytes NF4/FP4 with plain or nested
scales, and FP8 with a scale per tensor, per row or per block. Everything else that stores integers
where weights are expected is refused: codes have singular values too, of no meaning.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from kappa_lib.errors import CheckpointError, InputError
from kappa_lib.files import fits, parse, sha256
from kappa_lib.weights.assets import read_record
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo, kind_of

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMBERED = re.compile(r"^(.*)-(\d+)-of-(\d+)\.safetensors$")
_FILE_NAME = re.compile(r"[^/\\\0]{1,200}\.safetensors")
_ENTRY = {"dtype": str, "shape": list[int], "data_offsets": list[int]}
_HEADER_LIMIT = 100_000_000
_FETCH_AGAIN = "fetch this file again; it is incomplete or damaged"
_FP8_BLOCK = 128
_BLOCK_LIMIT = 2**16  # of bitsandbytes' blocks; its largest is 4096
_STATE = {"shape": list[int], "blocksize": int, "quant_type": str}
_STATE |= {"nested_blocksize": int | None, "nested_offset": float | None}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a shard: dtype, shape, and byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Shard:
    """One safetensors file, its header checked in full.

    Raises:
        CheckpointError: truncated or unreadable header, offsets that overlap, leave a hole,
            leave the file or contradict a shape.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise self._fail(f"truncated: {size} bytes, header says {length}")
            text = stream.read(length)
        try:
            header = parse(text, "the header", dict[str, object])
        except InputError as error:
            raise self._fail(error.what) from error
        header.pop("__metadata__", None)
        position = 8 + length
        self.entries = {name: self._entry(name, header[name], position) for name in header}
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].start):
            if entry.start < position:
                raise self._fail(f"offsets of {name} overlap those of another tensor")
            if entry.start > position:
                raise self._fail(f"{entry.start - position} unclaimed bytes before {name}")
            position = entry.stop
        if position != size:
            raise self._fail(f"truncated or padded: {size} bytes where {position} are described")

    def _fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path.name}: {what}", _FETCH_AGAIN)

    def _entry(self, name: str, value: Any, data: int) -> Entry:
        known = fits(value, dict[str, object]) and value.keys() == _ENTRY.keys()
        if not (known and all(fits(value[key], kind) for key, kind in _ENTRY.items())):
            raise self._fail(f"the header's entry for {name} is malformed")
        dtype, shape, offsets = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path.name}: {name} has the unknown dtype {dtype}",
                "scan the unquantised checkpoint, if the file is not damaged",
            )
        needed = math.prod(shape) * DTYPES[dtype].itemsize
        # Of an empty tensor, too, the other sizes have to be possible ones.
        possible = min(shape, default=0) >= 0 and math.prod(filter(None, shape)) < 2**60
        if len(offsets) != 2 or not possible or offsets[1] - offsets[0] != needed:
            raise self._fail(f"{name}: bytes {offsets} do not fit {dtype}{list(shape)}")
        return Entry(dtype, shape, data + offsets[0], data + offsets[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole file."""
        return sha256(self.path)

    def read(self, name: str) -> torch.Tensor:
        """One tensor as stored."""
        entry = self.entries[name]
        data = bytearray(entry.stop - entry.start)
        with open(self.path, "rb") as stream:
            stream.seek(entry.start)
            if stream.readinto(data) != len(data):
                raise CheckpointError(f"{self.path.name}: {name} is cut short", _FETCH_AGAIN)
        if not data:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(entry.shape)


class ShardCheckpoint(Checkpoint):
    """One safetensors file, or a folder of them with or without an index."""

    def __init__(self, path: Path) -> None:
        folder = path if path.is_dir() else path.parent
        super().__init__(*_identity(folder, path))
        if (config := folder / "config.json").is_file():
            self.config = config.read_text(encoding="utf-8", errors="replace")
        self._home: dict[str, Shard] = {}  # of each stored tensor
        expected = _expected(folder) if path.is_dir() else {path.name: set()}
        for file_name, names in sorted(expected.items()):
            self._add(folder / file_name, names)
        stored = {name: shard.entries[name] for name, shard in self._home.items()}
        self._packings = _packings(stored, self._stored)
        hidden = {part for packing in self._packings.values() for part in packing.parts}
        hidden |= _beside_codes(stored)
        via = (read_record(folder) or {}).get("stored_as", "")
        for name, entry in stored.items():
            packing = self._packings.get(name)
            if name in hidden or (packing is None and entry.dtype in ("I64", "BOOL")):
                continue
            shape = packing.shape if packing else entry.shape
            dtype = packing.label if packing else entry.dtype
            dtype = f"{via}→{dtype}" if via else dtype
            kind = kind_of(name, shape)
            self.tensors.append(TensorInfo(name, shape, dtype, self._home[name].path.name, kind))

    def _add(self, path: Path, expected: set[str]) -> None:
        try:
            if not path.is_file():
                found = f"{path.name}: missing shard, with {len(expected) or 'unknown'} tensors"
                raise CheckpointError(found, "fetch it; the other shards are here")
            shard = Shard(path)
            if absent := sorted(expected - set(shard.entries)):
                found = f"{path.name}: lacks {absent[0]}, which the index promises"
                raise CheckpointError(found, _FETCH_AGAIN)
            if twice := sorted(set(shard.entries) & set(self._home)):
                found = f"{path.name}: {twice[0]} is also in {self._home[twice[0]].path.name}"
                raise CheckpointError(found, "keep the files of one checkpoint in the folder")
        except CheckpointError as problem:
            self.problems.append(problem)
            return
        self._home.update(dict.fromkeys(shard.entries, shard))

    def _stored(self, name: str) -> torch.Tensor:
        return self._home[name].read(name)

    def read(self, info: TensorInfo) -> torch.Tensor:
        unknown = CheckpointError(
            f"{info.name}: packed as {info.dtype} in a layout that is not understood",
            "scan the unquantised checkpoint, or a GGUF of it",
        )
        if info.name in self._packings:
            try:
                return self._packings[info.name].unpack()
            except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
                # The parts of a packed tensor contradict each other.
                raise unknown from error
        tensor = self._stored(info.name)
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            raise unknown
        return tensor

    def digest(self, info: TensorInfo) -> str:
        return self._home[info.name].digest


def _identity(folder: Path, path: Path) -> tuple[str, str]:
    """Model id and revision; a hub snapshot's folder is models--owner--name/snapshots/<commit>."""
    if folder.parent.name == "snapshots":
        owner = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return owner, folder.name
    return (path.name if path.is_dir() else f"{folder.name}/{path.name}"), ""


def _expected(folder: Path) -> dict[str, set[str]]:
    """File name → tensor names that the folder's index or its file names promise."""
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    promised: dict[str, set[str]] = {}
    if index is not None:
        try:
            found = parse(index.read_bytes(), index.name, dict[str, object]).get("weight_map")
        except InputError as error:
            raise CheckpointError(f"{index.name}: not a readable index", _FETCH_AGAIN) from error
        if not fits(found, dict[str, str]) or not all(map(_FILE_NAME.fullmatch, found.values())):
            raise CheckpointError(
                f"{index.name}: not a readable index, its weight_map has to hold names of"
                " tensors and of the .safetensors files beside it",
                _FETCH_AGAIN,
            )
        for name, file_name in found.items():
            promised.setdefault(file_name, set()).add(name)
        return promised
    for path in folder.glob("*.safetensors"):
        promised[path.name] = set()
        if numbered := _NUMBERED.match(path.name):
            stem, _, total = numbered.groups()
            for part in range(1, int(total) + 1):
                promised.setdefault(f"{stem}-{part:0{len(total)}}-of-{total}.safetensors", set())
    if not promised:
        raise CheckpointError(
            f"{folder}: no .safetensors file in this folder",
            "name a model folder; pickle files are refused, convert them to safetensors",
        )
    return promised


# End of the name of integer codes that are refused → ends of what means nothing without them.
_CODES = {
    ".qweight": (".scales", ".qzeros", ".g_idx"),  # GPTQ, AWQ
    ".weight_packed": (".weight_scale", ".weight_zero_point", ".weight_g_idx"),  # llm-compressor
}


def _beside_codes(stored: Iterable[str]) -> set[str]:
    """Names of the scales and offsets of codes, which are no weights of their own."""
    return {
        name.removesuffix(codes) + part
        for codes, parts in _CODES.items()
        for name in stored
        if name.endswith(codes)
        for part in parts
    }


Reader = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class _Packing:
    """How one packed tensor becomes float32.

    Attributes:
        label: stored dtype for the κ table.
        shape: of the unpacked tensor.
        parts: helper tensors that are not weights themselves.
        unpack: its values.
    """

    label: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    unpack: Callable[[], torch.Tensor]


def _packings(stored: Mapping[str, Entry], read: Reader) -> dict[str, _Packing]:
    """How to unpack the packed tensors among those stored in all shards."""
    found: dict[str, _Packing] = {}
    for name, entry in stored.items():
        base = name.removesuffix(".weight")
        scb = f"{base}.SCB"
        states = (f"{name}.quant_state.bitsandbytes__{quant}" for quant in ("nf4", "fp4"))
        state = next((key for key in states if key in stored), None)
        scales = (f"{base}.weight_scale_inv", f"{base}.weight_scale")
        scale = next((key for key in scales if key in stored), None)
        if entry.dtype == "I8" and scb in stored:
            parts = (scb, f"{base}.weight_format")
            found[name] = _Packing("I8+SCB", entry.shape, parts, partial(_int8, name, scb, read))
        elif entry.dtype == "U8" and state:
            parts = tuple(key for key in stored if key.startswith(f"{name}."))
            if packing := _four_bit(name, state, entry.shape, parts, read):
                found[name] = packing
        elif entry.dtype.startswith("F8") and scale:
            unpack = partial(_fp8, name, scale, read)
            found[name] = _Packing(entry.dtype, entry.shape, (scale,), unpack)
    return found


def _int8(name: str, scb: str, read: Reader) -> torch.Tensor:
    """LLM.int8: each row was scaled by its largest magnitude, kept in SCB, to fill ±127."""
    codes = read(name).float()
    return codes * (read(scb).float().reshape(len(codes), 1) / 127.0)


def _four_bit(
    name: str, state_name: str, packed: tuple[int, ...], parts: tuple[str, ...], read: Reader
) -> _Packing | None:
    """NF4 or FP4 codes; None where their state record is not one, so that they are refused."""
    try:
        state = parse(read(state_name).numpy().tobytes(), state_name, dict[str, object])
    except InputError:
        return None
    shape, count = state.get("shape"), 2 * math.prod(packed)
    if not (
        all(fits(state.get(key), kind) for key, kind in _STATE.items())
        and min(shape, default=0) > 0
        and count - 1 <= math.prod(shape) <= count
        and 0 < state["blocksize"] <= _BLOCK_LIMIT
        and 0 < state.get("nested_blocksize", 1) <= _BLOCK_LIMIT
    ):
        return None

    def unpack() -> torch.Tensor:
        scales = read(f"{name}.absmax")
        if not scales.is_floating_point():  # nested: the scales are themselves 8-bit codes
            outer = read(f"{name}.nested_absmax").float()
            outer = outer.repeat_interleave(state["nested_blocksize"])
            inner = read(f"{name}.nested_quant_map").float()[scales.long()]
            scales = inner * outer[: len(inner)] + state["nested_offset"]
        codes = read(name).reshape(-1)
        values = read(f"{name}.quant_map").float()
        # The high half of a byte is the earlier weight.
        pairs = torch.stack([values[(codes >> 4).long()], values[(codes & 15).long()]], dim=1)
        numbers = pairs.reshape(-1)[: math.prod(shape)]
        per_number = scales.float().repeat_interleave(state["blocksize"])[: len(numbers)]
        return (numbers * per_number).reshape(shape)

    return _Packing(state["quant_type"].upper(), tuple(shape), parts, unpack)


def _fp8(name: str, scale_name: str, read: Reader) -> torch.Tensor:
    """FP8 times its scale, per tensor, per row or per 128×128 block.

    ``_inv`` in DeepSeek's name notwithstanding, both kinds of scale multiply.
    """
    values, scale = read(name).float(), read(scale_name).float()
    if scale.numel() == 1:
        return values * scale.reshape(())
    rows, cols = values.shape
    # By shape: as many blocks as rows there may be, too.
    if tuple(scale.shape) in ((rows,), (rows, 1)):
        return values * scale.reshape(rows, 1)
    if scale.shape == (-(-rows // _FP8_BLOCK), -(-cols // _FP8_BLOCK)):
        wide = scale.repeat_interleave(_FP8_BLOCK, 0).repeat_interleave(_FP8_BLOCK, 1)
        return values * wide[:rows, :cols]
    raise CheckpointError(
        f"{scale_name}: scales {tuple(scale.shape)} fit no known layout of a weight"
        f" {tuple(values.shape)}",
        "scan the unquantised checkpoint",
    )
