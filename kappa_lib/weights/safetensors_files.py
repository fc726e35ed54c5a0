"""Safetensors files, a tensor's own bytes at a time; which of a folder's files are read.

The format's own library checks headers. A file is opened anew for each tensor: the pages of a map
count as this process's memory, and go when it is closed.
"""

import re
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open

from kappa_lib.errors import CheckpointError, InputError
from kappa_lib.files import parse, sha256
from kappa_lib.weights.assembling import assembled
from kappa_lib.weights.checkpoint import Checkpoint, Source, TensorInfo, refusal
from kappa_lib.weights.packing import unpacked

SINGLE = "model.safetensors"
_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
_FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}\.safetensors$")]
_FETCH_AGAIN = "fetch this file again; it is incomplete or damaged"


class _Index(BaseModel):
    """What a folder's index says of its files."""

    weight_map: dict[str, _FileName]


class Shard:
    """One safetensors file.

    Raises:
        CheckpointError: truncated or unreadable header, offsets that overlap, leave a hole,
            leave the file or contradict a shape, or a type of numbers that no one knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.offset_keys()}
                self.sources = {
                    name: Source(
                        s.get_dtype(), tuple(s.get_shape()), partial(self.read, name), path.name
                    )
                    for name, s in slices.items()
                }
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name}: {error}", _FETCH_AGAIN) from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole file."""
        return sha256(self.path)

    def read(self, name: str) -> torch.Tensor:
        """One tensor as stored."""
        try:
            with safe_open(self.path, "pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path.name}: {name}: {error}", _FETCH_AGAIN) from error


class ShardCheckpoint(Checkpoint):
    """One safetensors file, or those of a folder that transformers would load.

    With ``via``, how the weights were stored before they were dequantised into these files.
    """

    def __init__(self, path: Path, via: str = "") -> None:
        folder = path if path.is_dir() else path.parent
        super().__init__(*_identity(folder, path))
        config = folder / "config.json"
        self.config = config.read_text("utf-8", errors="replace") if config.is_file() else ""
        self._shards: dict[str, Shard] = {}
        stored: dict[str, Source] = {}
        chosen = _expected(folder) if path.is_dir() else {path.name: set()}
        for file_name, names in sorted(chosen.items()):
            self._add(folder / file_name, names, stored)
        if path.is_dir():
            unread = {file.name for file in folder.glob("*.safetensors")} - chosen.keys()
            why = f"not read: {min(chosen)} is what transformers loads"
            self.left_out |= dict.fromkeys(sorted(unread), why)
        self._sources = self._weights(stored)
        for name, source in self._sources.items():
            dtype = f"{via}→{source.dtype}" if via else source.dtype
            stored = name, source.shape, dtype, source.file, source.refused
            self.tensors.append(TensorInfo(*stored))

    def _add(self, path: Path, expected: set[str], stored: dict[str, Source]) -> None:
        try:
            if not path.is_file():
                found = f"{path.name}: missing shard, with {len(expected) or 'unknown'} tensors"
                raise CheckpointError(found, "fetch it; the other shards are here")
            shard = Shard(path)
            if absent := sorted(expected - shard.sources.keys()):
                found = f"{path.name}: lacks {absent[0]}, which the index promises"
                raise CheckpointError(found, _FETCH_AGAIN)
            if twice := sorted(shard.sources.keys() & stored.keys()):
                found = f"{path.name}: {twice[0]} is also in {stored[twice[0]].file}"
                raise CheckpointError(found, "keep the files of one checkpoint in the folder")
        except CheckpointError as problem:
            self.problems.append(problem)
            return
        self._shards[path.name] = shard
        stored |= shard.sources

    def _weights(self, stored: dict[str, Source]) -> dict[str, Source]:
        """What the stored tensors make up; the rest is left out, by name, or a problem."""
        try:
            config = parse(self.config or "{}", "config.json", dict[str, object])
        except InputError:
            config = {}  # names of its tensors alone decide
        sources, odd = unpacked({n: _refused_if_empty(n, s) for n, s in stored.items()}, config)
        sources, problems = assembled(sources)
        self.left_out |= odd
        self.problems += problems
        return sources

    def read(self, info: TensorInfo) -> torch.Tensor:
        return self._sources[info.name].read()

    def digest(self, info: TensorInfo) -> str:
        return self._shards[info.shard].digest


def _refused_if_empty(name: str, source: Source) -> Source:
    if 0 not in source.shape:
        return source
    what = f"{name}: empty, its shape is {list(source.shape)}"
    return refusal(
        source, what, "if one process of ZeRO-3 saved it, gather the weights: zero_to_fp32.py"
    )


def _identity(folder: Path, path: Path) -> tuple[str, str]:
    """Model id and revision; a hub snapshot's folder is models--owner--name/snapshots/<commit>."""
    folder = folder.absolute()
    if folder.parent.name == "snapshots":
        owner = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return owner, folder.name
    return (folder.name if path.is_dir() else f"{folder.name}/{path.name}"), ""


def _expected(folder: Path) -> dict[str, set[str]]:
    """File → tensors that an index promises in it, of the files that transformers would load.

    That is ``model.safetensors``, else what the index lists. Where there is neither, for other
    libraries' folders: what another index lists, numbered shards, or all that is there.
    """
    files = {path.name for path in folder.glob("*.safetensors")}
    if SINGLE in files:
        return {SINGLE: set()}
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        usual = folder / f"{SINGLE}.index.json"
        return _promised(usual if usual in indices else indices[0])
    numbered = [match for name in files if (match := _NUMBERED.fullmatch(name))]
    # "model" and its like before "consolidated", the same weights under their makers' names.
    numbered.sort(key=lambda match: (match[1] != "model", match[1] == "consolidated", match[0]))
    if numbered:
        stem, _, total = numbered[0].groups()
        parts = (f"{part:0{len(total)}}" for part in range(1, int(total) + 1))
        return {f"{stem}-{part}-of-{total}.safetensors": set() for part in parts}
    if not files:
        raise CheckpointError(
            f"{folder}: no .safetensors file in this folder",
            "name a model folder; pickle files are refused, convert them to safetensors",
        )
    usual = {name for name in files if not name.startswith(("consolidated", "adapter"))}
    return {name: set() for name in usual or files}


def _promised(index: Path) -> dict[str, set[str]]:
    """File → the tensors in it, by the index of a folder."""
    try:
        listed = parse(index.read_bytes(), index.name, _Index).weight_map
    except InputError as error:
        raise CheckpointError(
            f"{index.name}: not a readable index, its weight_map has to hold names of"
            " tensors and of the .safetensors files beside it",
            _FETCH_AGAIN,
        ) from error
    promised: dict[str, set[str]] = {}
    for name, file_name in listed.items():
        promised.setdefault(file_name, set()).add(name)
    return promised
