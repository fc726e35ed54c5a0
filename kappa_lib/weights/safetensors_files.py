"""Safetensors shards, read by their header, a tensor's own bytes at a time.

Plain file reads and not a memory map: mapped pages count as this process's memory until the
system takes them back, which would hide that one tensor is held at a time.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kappa_lib.errors import CheckpointError, InputError
from kappa_lib.files import fits, parse, sha256
from kappa_lib.weights import quantised
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo, kind_of
from kappa_lib.weights.fetch import read_record

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
        self.entries = self._check(self._header())

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

    def _fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path.name}: {what}", _FETCH_AGAIN)

    def _header(self) -> dict[str, Any]:
        size = self.path.stat().st_size
        with open(self.path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise self._fail(f"truncated: {size} bytes, header says {length}")
            text = stream.read(length)
        self._data = 8 + length
        try:
            header = parse(text, "the header", dict[str, object])
        except InputError as error:
            raise self._fail(error.what) from error
        header.pop("__metadata__", None)
        return header

    def _check(self, header: dict[str, Any]) -> dict[str, Entry]:
        entries = {name: self._entry(name, value) for name, value in header.items()}
        position = self._data
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
            if entry.start < position:
                raise self._fail(f"offsets of {name} overlap those of another tensor")
            if entry.start > position:
                raise self._fail(f"{entry.start - position} unclaimed bytes before {name}")
            position = entry.stop
        size = self.path.stat().st_size
        if position != size:
            raise self._fail(f"truncated or padded: {size} bytes where {position} are described")
        return entries

    def _entry(self, name: str, value: Any) -> Entry:
        known = fits(value, dict[str, object]) and value.keys() == _ENTRY.keys()
        if not (known and all(fits(value[key], kind) for key, kind in _ENTRY.items())):
            raise self._fail(f"the header's entry for {name} is malformed")
        dtype, shape, offsets = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        if dtype not in DTYPES:
            raise self._fail(f"{name} has the unknown dtype {dtype}")
        needed = math.prod(shape) * DTYPES[dtype].itemsize
        # Of an empty tensor, too, the other sizes have to be possible ones.
        possible = min(shape, default=0) >= 0 and math.prod(filter(None, shape)) < 2**60
        if len(offsets) != 2 or not possible or offsets[1] - offsets[0] != needed:
            raise self._fail(f"{name}: bytes {offsets} do not fit {dtype}{list(shape)}")
        return Entry(dtype, shape, self._data + offsets[0], self._data + offsets[1])


class ShardCheckpoint(Checkpoint):
    """One safetensors file, or a folder of them with or without an index."""

    def __init__(self, path: Path) -> None:
        folder = path if path.is_dir() else path.parent
        super().__init__(*_identity(folder, path))
        self._via = (read_record(folder) or {}).get("stored_as", "")
        self._shards: dict[str, Shard] = {}
        self._home: dict[str, str] = {}
        expected = _expected(folder) if path.is_dir() else {path.name: set()}
        for file_name, names in sorted(expected.items()):
            self._add(folder / file_name, names)
        self._stored = {name: self._shards[home].entries[name] for name, home in self._home.items()}
        self._list()

    def _add(self, path: Path, expected: set[str]) -> None:
        try:
            if not path.is_file():
                found = f"{path.name}: missing shard, with {len(expected) or 'unknown'} tensors"
                raise CheckpointError(found, "fetch it; the other shards are here")
            shard = Shard(path)
            absent = sorted(expected - set(shard.entries))
            if absent:
                found = f"{path.name}: lacks {absent[0]}, which the index promises"
                raise CheckpointError(found, _FETCH_AGAIN)
            twice = sorted(set(shard.entries) & set(self._home))
            if twice:
                home = self._home[twice[0]]
                found = f"{path.name}: {twice[0]} is also in {home}"
                raise CheckpointError(found, "keep the files of one checkpoint in the folder")
        except CheckpointError as problem:
            self.problems.append(problem)
            return
        self._shards[path.name] = shard
        self._home.update(dict.fromkeys(shard.entries, path.name))

    def _list(self) -> None:
        recipes = quantised.recipes(self._stored, self._small)
        hidden = {part for recipe in recipes.values() for part in recipe.parts}
        for name, entry in self._stored.items():
            recipe = recipes.get(name)
            if name in hidden or (recipe is None and entry.dtype in ("I64", "BOOL")):
                continue
            shape = recipe.shape if recipe else entry.shape
            dtype = recipe.label if recipe else entry.dtype
            dtype = f"{self._via}→{dtype}" if self._via else dtype
            kind = kind_of(name, shape)
            self.tensors.append(TensorInfo(name, shape, dtype, self._home[name], kind))
        self._recipes = recipes

    def _small(self, name: str) -> torch.Tensor:
        return self._shards[self._home[name]].read(name)

    def read(self, info: TensorInfo) -> torch.Tensor:
        if info.name in self._recipes:
            try:
                return self._recipes[info.name].unpack(self._small)
            except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
                # The parts of a packed tensor contradict each other.
                raise quantised.unknown(info.name, info.dtype) from error
        tensor = self._small(info.name)
        if not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
            raise quantised.unknown(info.name, info.dtype)
        return tensor

    def digest(self, info: TensorInfo) -> str:
        return self._shards[info.shard].digest


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
