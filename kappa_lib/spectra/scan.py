"""Checkpoint → κ table, a few tensors at a time, resumable; several processes share the tensors."""

import fnmatch
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from kappa_lib import distributed
from kappa_lib.errors import CheckpointError, InputError, KappaError
from kappa_lib.files import Stage, fingerprint, fits, parse, require_folder, whole_lines
from kappa_lib.profiles import Profile
from kappa_lib.progress import Stages
from kappa_lib.spectra import kappa_table, solvers
from kappa_lib.spectra.extremes import SIDE_BY_SIDE
from kappa_lib.spectra.kappa_table import COLUMNS, matrices, matrix_names, measure
from kappa_lib.weights import models
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.models import open_checkpoint, pick_device

# Raise when a change here or in the solvers alters any number of a row.
NUMERICS = 5
# Embeddings and output layer are no choice of the paper's: its 224 tensors are 7 in each of
# 32 layers. An --include pattern brings them back.
SKIPPED_KINDS = ("other", "embedding")
Report = Callable[[int, int, str], None]


class ScanError(CheckpointError):
    """Some tensors could not be measured; the others were.

    Attributes:
        table: κ table of the tensors that could be.
        failures: name of the tensor or file → what is wrong with it, and what to do.
    """

    of_all = True

    def __init__(self, table: pd.DataFrame, failures: dict[str, tuple[str, str]]) -> None:
        self.table = table
        self.failures = failures
        alike: dict[str, list[str]] = {}
        for what, remedy in failures.values():
            alike.setdefault(remedy, []).append(what)
        listed = "".join(
            f"\n  {line}" for remedy, found in alike.items() for line in (*found, f"→ {remedy}")
        )
        super().__init__(
            f"{len(failures)} of {len(failures) + len(table)} could not be measured:{listed}",
            "the rows of the others are kept; mend the checkpoint and scan again to complete it",
        )


def _is_row(row: dict[str, Any]) -> bool:
    """Whether it has every column of the κ table but the ranks; further ones hold numbers."""
    kinds = {name: kind for name, kind in COLUMNS.items() if name not in ("rank", "rank_in_type")}
    return kinds.keys() <= row.keys() and all(
        fits(value, kinds.get(name, float)) for name, value in row.items()
    )


class FinishedRows:
    """Finished rows by key, appended to a file as they come; None as a folder keeps nothing.

    Each process appends to a file of its own and reads those of all, so that another number of
    processes can go on. The last line may be torn.
    """

    def __init__(self, folder: Path | None, process: int = 0) -> None:
        self.path: Path | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        if folder is not None:
            self.path = folder / f"kappa.rows{f'.{process}' if process else ''}.jsonl"
            for path in sorted(folder.glob("kappa.rows*.jsonl")):
                self._load(path)

    def _load(self, path: Path) -> None:
        # Only this process' own file: another may be appending to the others.
        for number, line in enumerate(whole_lines(path, mend=path == self.path), 1):
            try:
                record = parse(line, "it", dict[str, object])
            except InputError:
                record = {}
            key, row = record.get("key"), record.get("row")
            if not (fits(key, str) and fits(row, dict[str, object]) and _is_row(row)):
                raise InputError(
                    f"{path}: line {number} is not a finished row", "delete this file, scan again"
                )
            self.rows[key] = row

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a finished row, on disk at once."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, "row": row}) + "\n")


def scan(
    source: nn.Module | str | Path | Checkpoint,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    method: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dtype: str | None = None,
    progress: Report | None = None,
) -> pd.DataFrame:
    """Measure κ of every matrix of a checkpoint.

    Args:
        source: what :func:`kappa_lib.weights.models.open_checkpoint` takes.
        out: folder for ``kappa.parquet``, ``kappa.csv`` and ``kappa.rows.jsonl``, the finished
            rows from which a killed scan goes on (a file a process); None writes nothing.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; never MPS, whose small
            singular values are wrong.
        method: see :mod:`kappa_lib.spectra.solvers`.
        include: shell patterns of tensor names to measure; default: all matrices but embeddings
            and the output layer.
        exclude: shell patterns of tensor names to leave out.
        dtype: round the weights to this torch dtype first, to see what storing them so does.
        progress: called as progress(done, total, name) before each tensor of this process and
            at the end.

    Returns:
        The κ table, a row a matrix, in storage order; metadata in ``attrs``. The same for all
        processes, the leading one of which writes it.

    Raises:
        InputError: an unusable argument, or patterns that match nothing.
        CheckpointError: nothing can be read.
        ScanError: some tensors could not be measured, after the others were written.
    """
    distributed.initialise()
    if out is not None:
        require_folder(Path(out))
    with distributed.main_process_first():
        checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    chosen = to_measure(checkpoint, include, exclude)
    settings = _settings(method, device, dtype)
    finished = FinishedRows(Path(out) if out is not None else None, distributed.rank())
    order = _by_cost(chosen)
    mine = [order[i] for i in distributed.shard(len(order))]
    scanner = _Scanner(checkpoint, settings, finished, progress, [chosen[i] for i in mine])
    scanner.run()
    rows = distributed.all_gather({i: scanner.rows_of(chosen[i]) for i in mine})
    parts = distributed.all_gather({distributed.rank(): scanner.failures})
    failures = {name: what for part in parts for name, what in part.items()}
    table = kappa_table.build(
        [row for found in rows for row in found], _metadata(checkpoint, chosen, settings)
    )
    if out is not None and len(table) and distributed.is_main_process():
        kappa_table.write(table, Path(out))
    distributed.barrier()
    if progress:
        progress(scanner.total, scanner.total, "")
    if failures:
        raise ScanError(table, failures)
    return table


def _by_cost(chosen: Sequence[TensorInfo]) -> list[int]:
    """In which order tensors are dealt to several processes; one alone keeps that of storage."""
    if distributed.world_size() == 1:
        return list(range(len(chosen)))
    costs = [math.prod(info.shape) * min(info.shape) for info in chosen]
    return sorted(range(len(chosen)), key=lambda number: (-costs[number], number))


@dataclass
class _Matrix:
    """A matrix to be measured, and the key of its row."""

    info: TensorInfo
    name: str
    weight: torch.Tensor
    key: str


@dataclass
class _Scanner:
    """One process' part of a scan: the rows of its matrices, and why some are missing."""

    checkpoint: Checkpoint
    settings: dict[str, str]
    finished: FinishedRows
    progress: Report | None
    infos: list[TensorInfo]

    def __post_init__(self) -> None:
        # Their words alone: an error's traceback would keep its tensor in memory.
        self.failures = {p.what: (p.what, p.remedy) for p in self.checkpoint.problems}
        self.total = sum(len(matrix_names(info)) for info in self.infos)
        self._done = 0
        self._rows: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Measure everything: small matrices side by side, then large ones one by one."""
        on_cpu = self.settings["device"] == "cpu"
        small, large = [], []
        for info in self.infos:
            is_small = on_cpu and _singular_values(info) <= SIDE_BY_SIDE
            (small if is_small else large).append(info)
        for found in solvers.side_by_side(self._measured, self._open(small)):
            self._keep(*found)
        for found in map(self._measured, self._open(large)):
            self._keep(*found)

    def rows_of(self, info: TensorInfo) -> list[dict[str, Any]]:
        """Those rows of a stored tensor that could be measured."""
        return [self._rows[name] for name in matrix_names(info) if name in self._rows]

    def _open(self, infos: list[TensorInfo]) -> Iterator[_Matrix]:
        """The matrices of stored tensors that no earlier scan finished, read one by one."""
        for info in infos:
            names = matrix_names(info)
            try:
                keys = [self._key(info, name) for name in names]
                rows = [self.finished.rows.get(key) for key in keys]
                self._rows |= {n: row for n, row in zip(names, rows, strict=True) if row}
                self._done += sum(row is not None for row in rows)
                tensor = None if all(rows) else self.checkpoint.read(info)
            except KappaError as problem:
                self.failures[info.name] = (problem.what, problem.remedy)
                self._done += sum(name not in self._rows for name in names)
                continue
            if tensor is None:
                continue
            for (name, weight), key in zip(matrices(info, tensor), keys, strict=True):
                if name in self._rows:
                    continue
                if self.progress:
                    self.progress(self._done, self.total, name)
                yield _Matrix(info, name, weight, key)

    def _measured(self, matrix: _Matrix) -> tuple[_Matrix, dict[str, Any] | KappaError]:
        weight, dtype, rounded = matrix.weight, matrix.info.dtype, self.settings["as"]
        if rounded != "stored":
            weight, dtype = weight.to(torch_dtype(rounded)), f"{dtype}→{rounded}"
        try:
            how = {key: self.settings[key] for key in ("method", "device")}
            return matrix, measure(weight, matrix.name, **how) | {"dtype": dtype}
        except KappaError as problem:
            return matrix, problem

    def _keep(self, matrix: _Matrix, found: dict[str, Any] | KappaError) -> None:
        self._done += 1
        if isinstance(found, KappaError):
            self.failures[matrix.name] = (found.what, found.remedy)
            return
        self._rows[matrix.name] = found
        self.finished.add(matrix.key, found)

    def _key(self, info: TensorInfo, name: str) -> str:
        """What a finished row is found by again; empty where none is kept."""
        if self.finished.path is None:
            return ""
        source = self.checkpoint
        origin = [source.model_id, source.revision, source.digest(info), name, info.dtype]
        return fingerprint([*origin, self.settings, kappa_table.versions(), NUMERICS])


def _singular_values(info: TensorInfo) -> int:
    """Number of singular values of a stored tensor's matrices."""
    rows, *rest = info.shape[1:] if info.kind == "experts" else info.shape
    return min(rows, math.prod(rest))


def _settings(method: str, device: str, dtype: str | None) -> dict[str, str]:
    """What a row depends on besides the tensor, checked before anything is read."""
    if method not in solvers.METHODS:
        raise InputError(f"method {method!r} is unknown", f"one of {', '.join(solvers.METHODS)}")
    if dtype is not None:
        torch_dtype(dtype)
    return {"method": method, "device": pick_device(device).type, "as": dtype or "stored"}


def torch_dtype(name: str) -> torch.dtype:
    """The floating-point torch dtype of that name; InputError where there is none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype {name!r} is not a floating-point torch dtype", "try bfloat16")
    return dtype


def to_measure(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[TensorInfo]:
    """The tensors that a scan with these patterns measures; InputError where there is none."""

    def wanted(info: TensorInfo) -> bool:
        if len(info.shape) < 2 or any(fnmatch.fnmatchcase(info.name, p) for p in exclude):
            return False
        if include:
            return any(fnmatch.fnmatchcase(info.name, p) for p in include)
        return info.kind not in SKIPPED_KINDS

    chosen = [info for info in checkpoint.tensors if wanted(info)]
    if not chosen:
        some = checkpoint.tensors[0].name
        raise InputError(
            f"{checkpoint.model_id}: no matrix left to measure"
            f" (include {list(include)}, exclude {list(exclude)})",
            "merge this adapter into its model (PEFT's merge_and_unload), and scan that"
            if ".lora_" in some
            else f"patterns are matched to whole names such as {some}",
        )
    return chosen


def _metadata(
    checkpoint: Checkpoint, chosen: list[TensorInfo], settings: dict[str, str]
) -> dict[str, Any]:
    shards = {info.shard: info for info in chosen if info.shard != "memory"}
    return {
        "model": checkpoint.model_id,
        "revision": checkpoint.revision,
        "config": checkpoint.config,
        "shards": {shard: checkpoint.digest(info) for shard, info in shards.items()},
        "settings": settings,
        "versions": kappa_table.versions(),
    }


def scan_stage(profile: Profile) -> pd.DataFrame:
    """The pipeline's scan: the profile's model → ``kappa.parquet`` and ``kappa.csv``.

    Skipped while model, device and versions are those of the last run.
    """
    source = models.weights(profile.model)
    outputs = [profile.folder / "kappa.parquet", profile.folder / "kappa.csv"]
    inputs = {
        "weights": models.identity(profile.model),
        "device": pick_device(profile.device).type,
        "versions": kappa_table.versions(),
        "numerics": NUMERICS,
    }
    stage = Stage("scan", profile.folder, inputs, outputs)
    if not distributed.broadcast(stage.done()):
        scan(source, profile.folder, device=profile.device, progress=partial(Stages(), "scan"))
        if distributed.is_main_process():
            stage.finish()
        distributed.barrier()
    return kappa_table.read(outputs[0])
