"""Checkpoint → κ table, one tensor at a time, resumable; several processes share the tensors."""

import fnmatch
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from kappa_lib import distributed
from kappa_lib.errors import CheckpointError, InputError, KappaError
from kappa_lib.files import Stage, fingerprint, require_folder
from kappa_lib.profiles import Profile
from kappa_lib.progress import Stages
from kappa_lib.spectra import kappa_table, solvers
from kappa_lib.spectra.journal import Journal
from kappa_lib.spectra.rows import matrices, measure, row_names
from kappa_lib.weights import models
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.opening import open_checkpoint

# Raise when a change here or in the solvers alters any number of a row.
NUMERICS = 3
# Embeddings and output layer are no choice of the paper's: its 224 tensors are 7 in each of
# 32 layers. An --include pattern brings them back.
SKIPPED_KINDS = ("other", "embedding")
Report = Callable[[int, int, str], None]


class ScanError(CheckpointError):
    """Some tensors could not be measured; the others were.

    Attributes:
        table: κ table of the tensors that could be.
        failures: name of the tensor or file → what is wrong with it.
    """

    of_all = True

    def __init__(self, table: pd.DataFrame, failures: dict[str, str]) -> None:
        self.table = table
        self.failures = failures
        listed = "\n".join(f"  {text}" for text in failures.values())
        super().__init__(
            f"{len(failures)} of {len(failures) + len(table)} could not be measured:\n{listed}",
            "the rows of the others are kept; mend the checkpoint and scan again to complete it",
        )


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
        source: what :func:`kappa_lib.weights.checkpoint.open_checkpoint` takes.
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
    chosen = _chosen(checkpoint, include, exclude)
    settings = _settings(method, device, dtype)
    journal = Journal(Path(out) if out is not None else None, distributed.rank())
    order = _by_cost(chosen)
    mine = [order[i] for i in distributed.shard(len(order))]
    scanner = _Scanner(
        checkpoint, settings, journal, progress, sum(len(row_names(chosen[i])) for i in mine)
    )
    rows = distributed.all_gather({i: scanner.measure(chosen[i]) for i in mine})
    failures: dict[str, str] = {}
    for found in distributed.all_gather({distributed.rank(): scanner.failures}):
        failures |= found
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
    numbers = range(len(chosen))
    if distributed.world_size() == 1:
        return list(numbers)

    def cost(number: int) -> int:
        return math.prod(chosen[number].shape) * min(chosen[number].shape)

    return sorted(numbers, key=lambda number: (-cost(number), number))


class _Scanner:
    """Fills rows tensor by tensor, from the journal where it can."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: dict[str, str],
        journal: Journal,
        progress: Report | None,
        total: int,
    ) -> None:
        self.failures = {str(p.what): str(p.what) for p in checkpoint.problems}
        self.total = total
        self._checkpoint, self._settings, self._journal = checkpoint, settings, journal
        self._progress, self._done = progress, 0

    def measure(self, info: TensorInfo) -> list[dict[str, Any]]:
        """The rows of one stored tensor; why some are missing goes to ``failures``."""
        try:
            keys = {name: self._key(info, name) for name in row_names(info)}
            known = {name: self._journal.get(key) for name, key in keys.items()}
            if all(known.values()):
                self._done += len(known)
                return list(known.values())
            tensor = self._checkpoint.read(info)
        except KappaError as problem:
            self.failures[info.name] = problem.what
            self._done += len(row_names(info))
            return []
        rows = [
            self._one(info, name, matrix, keys[name]) for name, matrix in matrices(info, tensor)
        ]
        return [row for row in rows if row is not None]

    def _one(
        self, info: TensorInfo, name: str, matrix: torch.Tensor, key: str
    ) -> dict[str, Any] | None:
        if self._progress:
            self._progress(self._done, self.total, name)
        self._done += 1
        row = self._journal.get(key)
        if row is None:
            try:
                row = self._compute(info, name, matrix)
            except KappaError as problem:
                self.failures[name] = problem.what
                return None
            self._journal.add(key, row)
        return row

    def _compute(self, info: TensorInfo, name: str, matrix: torch.Tensor) -> dict[str, Any]:
        rounded = self._settings["as"]
        if rounded != "stored":
            matrix = matrix.to(_torch_dtype(rounded))
        row = measure(
            matrix, name, method=self._settings["method"], device=self._settings["device"]
        )
        label = info.dtype if rounded == "stored" else f"{info.dtype}→{rounded}"
        return {**row, "dtype": label}

    def _key(self, info: TensorInfo, name: str) -> str:
        source = self._checkpoint
        origin = [source.model_id, source.revision, source.digest(info), name, info.dtype]
        return fingerprint([*origin, self._settings, kappa_table.versions(), NUMERICS])


def _settings(method: str, device: str, dtype: str | None) -> dict[str, str]:
    """What a row depends on besides the tensor, checked before anything is read."""
    if method not in solvers.METHODS:
        raise InputError(f"method {method!r} is unknown", f"one of {', '.join(solvers.METHODS)}")
    if dtype is not None:
        _torch_dtype(dtype)
    return {"method": method, "device": solvers.pick_device(device), "as": dtype or "stored"}


def _torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype {name!r} is not a floating-point torch dtype", "try bfloat16")
    return dtype


def _chosen(
    checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]
) -> list[TensorInfo]:
    def wanted(info: TensorInfo) -> bool:
        if len(info.shape) < 2 or any(fnmatch.fnmatchcase(info.name, p) for p in exclude):
            return False
        if include:
            return any(fnmatch.fnmatchcase(info.name, p) for p in include)
        return info.kind not in SKIPPED_KINDS

    chosen = [info for info in checkpoint.tensors if wanted(info)]
    if not chosen:
        raise InputError(
            f"{checkpoint.model_id}: no matrix left to measure"
            f" (include {list(include)}, exclude {list(exclude)})",
            f"patterns are matched to whole names such as {checkpoint.tensors[0].name}",
        )
    return chosen


def _metadata(
    checkpoint: Checkpoint, chosen: list[TensorInfo], settings: dict[str, str]
) -> dict[str, Any]:
    hashes: dict[str, str] = {}
    for info in chosen:
        if info.shard == "memory":
            continue
        hashes.setdefault(info.shard, checkpoint.digest(info))
    return {
        "model": checkpoint.model_id,
        "revision": checkpoint.revision,
        "shards": hashes,
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
        "device": solvers.pick_device(profile.device),
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
