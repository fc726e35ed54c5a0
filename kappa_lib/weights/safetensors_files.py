"""Safetensors files: a model's, a tensor's own bytes at a time; and those written here, whole."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from kappa_lib.errors import CheckpointError, InputError, KappaError
from kappa_lib.files import parse, replacing, require_space
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo, refusal
from kappa_lib.weights.factors import without_factors
from kappa_lib.weights.packing import unpacked

SINGLE = "model.safetensors"
_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
_FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}\.safetensors$")]
_FETCH_AGAIN = "fetch this file again; it is missing, incomplete or damaged"


class _Index(BaseModel):
    """What a folder's index says of its files."""

    weight_map: dict[str, _FileName] = Field(min_length=1)


def open_files(path: Path) -> Checkpoint:
    """The safetensors file of this path, or those of a folder that transformers would load."""
    folder = path if path.is_dir() else path.parent
    config = folder / "config.json"
    text = config.read_text("utf-8", errors="replace") if config.is_file() else ""
    checkpoint = Checkpoint(*_identity(folder, path), folder, text)
    stored: dict[str, TensorInfo] = {}
    chosen = _expected(folder) if path.is_dir() else {path.name: set()}
    for name, promised in sorted(chosen.items()):
        try:
            stored |= _shard(folder / name, promised, stored)
        except CheckpointError as problem:
            checkpoint.problems.append(problem)
    if path.is_dir():
        unread = {file.name for file in folder.glob("*.safetensors")} - chosen.keys()
        why = f"not read: {min(chosen)} is what transformers loads"
        checkpoint.left_out |= dict.fromkeys(sorted(unread), why)
    try:
        settings = parse(text or "{}", "config.json", dict[str, object])
    except InputError:
        settings = {}  # names of its tensors alone decide
    found, odd = unpacked(stored, settings)
    found, problems = without_factors(found)
    checkpoint.left_out |= odd
    checkpoint.problems += problems
    checkpoint.tensors = [*found.values()]
    return checkpoint


def _shard(
    path: Path, promised: set[str], others: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """The tensors of one file by name, in the order of storage.

    Raises:
        CheckpointError: missing; a header that is truncated, unreadable or contradicts itself; or
            without a tensor that is promised, or with one that another file has.
    """
    with _explained(path.name), safe_open(path, "pt") as file:
        own = {name: _info(path, name, file.get_slice(name)) for name in file.offset_keys()}
    if absent := sorted(promised - own.keys()):
        found = f"{path.name}: lacks {absent[0]}, which the index promises"
        raise CheckpointError(found, _FETCH_AGAIN)
    if twice := sorted(own.keys() & others.keys()):
        found = f"{path.name}: {twice[0]} is also in {others[twice[0]].files[0]}"
        raise CheckpointError(found, "keep the files of one checkpoint in the folder")
    return own


def _info(path: Path, name: str, part: Any) -> TensorInfo:
    """A tensor of a file by its slice, which is safetensors' own and knows shape and type."""
    shape = tuple(part.get_shape())
    info = TensorInfo(name, shape, part.get_dtype(), partial(_read, path, name), (path.name,))
    if 0 not in shape:
        return info
    remedy = "if one process of ZeRO-3 saved it, gather the weights: zero_to_fp32.py"
    return refusal(info, f"{name}: empty, its shape is {list(shape)}", remedy)


def _read(path: Path, name: str) -> torch.Tensor:
    # Opened anew: the pages of a map count as this process's memory, and go when it is closed.
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


@contextmanager
def _explained(what: str, remedy: str = _FETCH_AGAIN) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{what}: {error}", remedy) from error


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
    if indices := sorted(folder.glob("*.safetensors.index.json")):
        usual = folder / f"{SINGLE}.index.json"
        index = usual if usual in indices else indices[0]
        promised: dict[str, set[str]] = {}
        for name, file in parse(index.read_bytes(), index.name, _Index).weight_map.items():
            promised.setdefault(file, set()).add(name)
        return promised
    # Not, beside others, the same weights under their makers' names, or those of an adapter.
    usual = {name for name in files if not name.startswith(("consolidated", "adapter"))} or files
    if numbered := next(filter(None, map(_NUMBERED.fullmatch, sorted(usual))), None):
        stem, _, total = numbered.groups()
        parts = (f"{part:0{len(total)}}" for part in range(1, int(total) + 1))
        return {f"{stem}-{part}-of-{total}.safetensors": set() for part in parts}
    if not usual:
        remedy = "name a model folder, or a .gguf file; pickle files are refused, convert them"
        if ggufs := sorted(folder.glob("*.gguf")):
            remedy = f"name the file: {', '.join(map(str, ggufs))}"
        raise CheckpointError(f"{folder}: no .safetensors file in this folder", remedy)
    return {name: set() for name in usual}


def save_tensors(
    path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None
) -> None:
    """Write a file of safetensors atomically.

    Raises:
        SpaceError: the disk cannot hold it.
        KappaError: the system refuses it for another reason, in safetensors' words.
    """
    try:
        with replacing(path) as temporary:
            require_space(path.parent, sum(tensor.nbytes for tensor in tensors.values()))
            save_file(tensors, temporary, header)
    except SafetensorError as error:
        raise KappaError(f"{path}: {error}", "mend that, or choose another folder") from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of such a file, mapped from the disk; CheckpointError where it is damaged."""
    with _explained(f"{path}: damaged", "delete it and run again"):
        return load_file(path)
