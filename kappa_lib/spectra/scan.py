"""Checkpoint → κ table, a few tensors at a time, resumable."""

import fnmatch
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

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

    The last line may be torn.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path: Path | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        if folder is None:
            return
        self.path = folder / "kappa.rows.jsonl"
        for number, line in enumerate(whole_lines(self.path, mend=True), 1):
            try:
                record = parse(line, "it", dict[str, object])
            except InputError:
                record = {}
            key, row = record.get("key"), record.get("row")
            if not (fits(key, str) and fits(row, dict[str, object]) and _is_row(row)):
                what = f"{self.path}: line {number} is not a finished row"
                raise InputError(what, "delete this file, scan again")
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
            rows from which a killed scan goes on; None writes nothing.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; never MPS, whose small
            singular values are wrong.
        method: see :mod:`kappa_lib.spectra.solvers`.
        include: shell patterns of tensor names to measure; default: all matrices but embeddings
            and the output layer.
        exclude: shell patterns of tensor names to leave out.
        dtype: round the weights to this torch dtype first, to see what storing them so does.
        progress: called as progress(done, total, name) before each tensor and at the end.

    Returns:
        The κ table, one row per matrix, in storage order; metadata in ``attrs``.

    Raises:
        InputError: an unusable argument, or patterns that match nothing.
        CheckpointError: nothing can be read.
        ScanError: some tensors could not be measured, after the others were written.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        require_folder(folder)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    chosen = to_measure(checkpoint, include, exclude)
    settings = _settings(method, device, dtype)
    say = progress or (lambda *_: None)
    scanner = _Scanner(checkpoint, settings, FinishedRows(folder), say, chosen)
    scanner.run()
    rows, failures = scanner.rows, scanner.failures
    names = [name for info in chosen for name in matrix_names(info) if name in rows]
    metadata = _metadata(checkpoint, chosen, settings)
    table = kappa_table.build([rows[name] for name in names], metadata)
    if folder is not None and len(table):
        kappa_table.write(table, folder)
    say(scanner.total, scanner.total, "")
    if failures:
        raise ScanError(table, failures)
    return table


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
    say: Report
    infos: list[TensorInfo]

    def __post_init__(self) -> None:
        # Their words alone: an error's traceback would keep its tensor in memory.
        self.failures = {p.what: (p.what, p.remedy) for p in self.checkpoint.problems}
        self.total = sum(len(matrix_names(info)) for info in self.infos)
        self._done = 0
        self.rows: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Measure everything: small matrices side by side, then large ones one by one."""
        on_cpu = self.settings["device"] == "cpu"
        small, large = [], []
        for info in self.infos:
            rows, *rest = info.shape[1:] if info.kind == "experts" else info.shape
            is_small = on_cpu and min(rows, math.prod(rest)) <= SIDE_BY_SIDE
            (small if is_small else large).append(info)
        for matrix, found in chain(
            solvers.side_by_side(self._measured, self._open(small)),
            map(self._measured, self._open(large)),
        ):
            self._done += 1
            if isinstance(found, KappaError):
                self.failures[matrix.name] = (found.what, found.remedy)
            else:
                self.rows[matrix.name] = found
                self.finished.add(matrix.key, found)

    def _open(self, infos: list[TensorInfo]) -> Iterator[_Matrix]:
        """The matrices of stored tensors that no earlier scan finished, read one by one."""
        kept = self.finished.rows
        for info in infos:
            names = matrix_names(info)
            try:
                keys = {name: self._key(info, name) for name in names}
                known = {name: kept[key] for name, key in keys.items() if key in kept}
                self.rows |= known
                self._done += len(known)
                if len(known) == len(names):
                    continue
                tensor = self.checkpoint.read(info)
            except KappaError as problem:
                self.failures[info.name] = (problem.what, problem.remedy)
                self._done += sum(name not in self.rows for name in names)
                continue
            for name, weight in matrices(info, tensor):
                if name not in known:
                    self.say(self._done, self.total, name)
                    yield _Matrix(info, name, weight, keys[name])

    def _measured(self, matrix: _Matrix) -> tuple[_Matrix, dict[str, Any] | KappaError]:
        weight, dtype, rounded = matrix.weight, matrix.info.dtype, self.settings["as"]
        if rounded != "stored":
            weight, dtype = weight.to(torch_dtype(rounded)), f"{dtype}→{rounded}"
        try:
            how = {key: self.settings[key] for key in ("method", "device")}
            return matrix, measure(weight, matrix.name, **how) | {"dtype": dtype}
        except KappaError as problem:
            return matrix, problem

    def _key(self, info: TensorInfo, name: str) -> str:
        """What a finished row is found by again; empty where none is kept."""
        if self.finished.path is None:
            return ""
        source = self.checkpoint
        origin = [source.model_id, source.revision, source.digest(info), name, info.dtype]
        return fingerprint([*origin, self.settings, kappa_table.versions(), NUMERICS])


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
    if not stage.done():
        scan(source, profile.folder, device=profile.device, progress=partial(Stages(), "scan"))
        stage.finish()
    return kappa_table.read(outputs[0])
