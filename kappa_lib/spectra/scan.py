"""Checkpoint → κ table, a few tensors at a time, resumable."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from kappa_lib.errors import CheckpointError, InputError, KappaError
from kappa_lib.files import Stage, fingerprint, require_folder, whole_lines
from kappa_lib.profiles import Profile
from kappa_lib.progress import Progress
from kappa_lib.spectra import adapters, kappa_table, solvers
from kappa_lib.spectra.choice import absent, left_out, opened, to_measure
from kappa_lib.spectra.gram import SIDE_BY_SIDE
from kappa_lib.spectra.kappa_table import measure
from kappa_lib.weights import models
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.models import pick_device

# Raise when a change here or in the solvers alters any number of a row.
NUMERICS = 5
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


class FinishedRows:
    """Finished rows by key, appended to a file as they come; None as a folder keeps nothing.

    The last line may be torn; of the others a sum tells whether they are as they were written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = folder and folder / "kappa.rows.jsonl"
        self.rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole_lines(self.path) if self.path else (), 1):
            try:
                record = json.loads(line)
                key, row = record["key"], record["row"]
                sound = record["sum"] == fingerprint([key, row])
            except (ValueError, KeyError, TypeError, RecursionError):
                sound = False
            if not sound:
                what = f"{self.path}: line {number} is not a finished row"
                raise InputError(what, "delete this file, scan again")
            self.rows[key] = row

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a finished row, on disk at once."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"key": key, "row": row, "sum": fingerprint([key, row])}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


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
    """Measure κ of every matrix of a model.

    Args:
        source: a model in memory, a folder or file of weights, a model hub id, or the name of the
            pinned default model, see :func:`kappa_lib.weights.models.open_checkpoint`.
        out: folder for ``kappa.parquet``, ``kappa.csv`` and ``kappa.rows.jsonl``, the finished
            rows from which a killed scan goes on; None writes nothing.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; never MPS, whose small
            singular values are wrong.
        method: see :mod:`kappa_lib.spectra.solvers`.
        include: shell patterns of tensor names to measure, whatever these are; default: the
            weights of linear layers, convolutions and experts, without the output layer.
        exclude: shell patterns of tensor names to leave out, also of what is missing.
        dtype: round the weights to this torch dtype first, to see what storing them so does.
        progress: called as progress(done, total, name) before each tensor and at the end.

    Returns:
        The κ table, one row per matrix, in storage order. ``attrs`` holds where it comes from;
        ``basis``, what it rests on which tensors are weights; ``left_out``, reason → tensors that
        are none; and ``not_adapted``, the matrices that PEFT cannot adapt alone → why.

    Raises:
        InputError: an unusable argument, or patterns that match nothing.
        CheckpointError: nothing can be read.
        ScanError: some tensors could not be measured, or are missing, after the others were
            written.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        require_folder(folder)
    checkpoint = opened(source)
    chosen = to_measure(checkpoint, include, exclude)
    settings = _settings(method, device, dtype)
    scanner = _Scanner(checkpoint, settings, FinishedRows(folder), progress or (lambda *_: None))
    scanner.failures |= absent(checkpoint, include, exclude)
    scanner.run(chosen)
    names = [name for info in chosen for name in info.matrices if name in scanner.rows]
    metadata = _metadata(checkpoint, chosen, settings)
    table = kappa_table.build([scanner.rows[name] for name in names], metadata)
    inside = table.loc[table["layer"].notna(), "tensor"]
    table.attrs["not_adapted"] = adapters.refused(checkpoint.config, inside)
    if folder is not None and len(table):
        kappa_table.write(table, folder)
    if scanner.failures:
        raise ScanError(table, scanner.failures)
    return table


@dataclass
class _Matrix:
    """A matrix to be measured, and the key of its row."""

    info: TensorInfo
    name: str
    weight: torch.Tensor
    key: str


class _Scanner:
    """A scan under way: the rows of its matrices, and why some are missing."""

    def __init__(
        self, checkpoint: Checkpoint, settings: dict[str, str], finished: FinishedRows, say: Report
    ) -> None:
        self._checkpoint, self._settings = checkpoint, settings
        self._finished, self._say = finished, say
        self._done = self._total = 0
        self.rows: dict[str, dict[str, Any]] = {}
        # Their words alone: an error's traceback would keep its tensor in memory.
        self.failures = {p.what: (p.what, p.remedy) for p in checkpoint.problems}

    def run(self, infos: list[TensorInfo]) -> None:
        """Measure everything: small matrices side by side, then large ones one by one."""
        self._total = sum(len(info.matrices) for info in infos)
        on_cpu = self._settings["device"] == "cpu"
        small, large = [], []
        for info in infos:
            rows, *rest = info.shape[1:] if info.stack else info.shape
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
                self._finished.add(matrix.key, found)
        self._say(self._total, self._total, "")

    def _open(self, infos: list[TensorInfo]) -> Iterator[_Matrix]:
        """The matrices of tensors that no earlier scan finished, read one by one."""
        kept = self._finished.rows
        for info in infos:
            try:
                keys = {name: self._key(info, name) for name in info.matrices}
                known = {name: kept[key] for name, key in keys.items() if key in kept}
                self.rows |= known
                self._done += len(known)
                if len(known) == len(keys):
                    continue
                for name, weight in self._checkpoint.matrices(info):
                    if name not in known:
                        self._say(self._done, self._total, name)
                        yield _Matrix(info, name, weight, keys[name])
            except KappaError as problem:
                self.failures[info.name] = (problem.what, problem.remedy)

    def _measured(self, matrix: _Matrix) -> tuple[_Matrix, dict[str, Any] | KappaError]:
        weight, dtype, rounded = matrix.weight, matrix.info.dtype, self._settings["as"]
        if rounded != "stored":
            weight, dtype = weight.to(torch_dtype(rounded)), f"{dtype}→{rounded}"
        try:
            how = {key: self._settings[key] for key in ("method", "device")}
            return matrix, measure(weight, matrix.name, **how) | {"dtype": dtype}
        except KappaError as problem:
            return matrix, problem

    def _key(self, info: TensorInfo, name: str) -> str:
        """What a finished row is found by again; empty where none is kept."""
        if self._finished.path is None:
            return ""
        source = self._checkpoint
        origin = [source.model_id, source.revision, source.digest(info), name, info.dtype]
        return fingerprint([*origin, self._settings, kappa_table.versions(), NUMERICS])


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


def _metadata(
    checkpoint: Checkpoint, chosen: list[TensorInfo], settings: dict[str, str]
) -> dict[str, Any]:
    return {
        "model": checkpoint.model_id,
        "revision": checkpoint.revision,
        "config": checkpoint.config,
        "basis": checkpoint.basis,
        "left_out": left_out(checkpoint),
        "shards": {k: v for info in chosen for k, v in checkpoint.files(info).items()},
        "settings": settings,
        "versions": kappa_table.versions(),
    }


def scan_stage(profile: Profile) -> pd.DataFrame:
    """The pipeline's scan: the profile's model → ``kappa.parquet`` and ``kappa.csv``.

    Skipped while model, device and versions are those of the last run.
    """
    outputs = [profile.folder / "kappa.parquet", profile.folder / "kappa.csv"]
    inputs = {
        "weights": models.identity(profile.model),
        "device": pick_device(profile.device).type,
        "versions": kappa_table.versions(),
        "numerics": NUMERICS,
    }
    stage = Stage("scan", profile.folder, inputs, outputs)
    if not stage.done():
        with Progress("scan") as bar:
            scan(profile.model, profile.folder, device=profile.device, progress=bar.reach)
        stage.finish()
    return kappa_table.read(outputs[0])
