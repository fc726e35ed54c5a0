"""Checkpoint → κ table, a few tensors at a time, resumable."""

import fnmatch
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from kappa_lib.errors import CheckpointError, InputError, KappaError
from kappa_lib.files import fingerprint, require_folder, stage, whole_lines
from kappa_lib.profiles import Profile
from kappa_lib.progress import Progress
from kappa_lib.spectra import adapters, kappa_table, solvers
from kappa_lib.spectra.gram import SIDE_BY_SIDE
from kappa_lib.weights import kinds, models
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.loaded import as_used

# Raise when a change here, in the solvers or in what is read alters any number of a row.
NUMERICS = 7
Source = nn.Module | str | Path
Report = Callable[[int, int, str], None]


class ScanError(CheckpointError):
    """Some tensors could not be measured; ``table`` has those that were. ``failures``: name of the
    tensor or file → what is wrong with it, and what to do."""

    def __init__(self, table: pd.DataFrame, failures: dict[str, tuple[str, str]]) -> None:
        self.table, self.failures = table, failures
        alike: dict[str, list[str]] = {}
        for what, remedy in failures.values():
            alike.setdefault(remedy, []).append(what)
        lines = [f"{len(failures)} of {len(failures) + len(table)} could not be measured:"]
        for remedy, found in alike.items():
            lines += [*found, f"→ {remedy}"]
        remedy = "the rows of the others are kept; mend the checkpoint and do it again"
        super().__init__("\n  ".join(lines), remedy)


def scan(
    source: Source,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    method: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
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
        progress: called as progress(done, total, name) before each tensor and at the end.

    Returns:
        The κ table, one row per matrix, in storage order. ``attrs`` holds where it comes from;
        ``basis``, what it rests on which tensors are weights; ``left_out``, reason → tensors that
        are none; ``not_adapted``, what PEFT cannot adapt alone, or was not measured → why; and
        ``not_tried``, why that could not be tried.

    Raises:
        InputError: an unusable argument, or patterns that match nothing.
        CheckpointError: nothing can be read.
        ScanError: some tensors could not be measured, or are missing, after the others were
            written.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        require_folder(folder)
    checkpoint = as_used(models.open_checkpoint(source))
    chosen = to_measure(checkpoint, include, exclude)
    if method not in solvers.METHODS:
        raise InputError(f"method {method!r} is unknown", f"one of {', '.join(solvers.METHODS)}")
    settings = {"method": method, "device": models.pick_device(device).type}
    scanner = _Scanner(checkpoint, settings, folder, progress or (lambda *_: None))
    scanner.failures |= absent(checkpoint, include, exclude)
    scanner.run(chosen)
    names = [name for info in chosen for name in info.matrices if name in scanner.rows]
    metadata = {
        "model": checkpoint.model_id,
        "revision": checkpoint.revision,
        "config": checkpoint.config,
        "basis": checkpoint.basis,
        "left_out": left_out(checkpoint),
        "shards": {k: v for info in chosen for k, v in checkpoint.files(info).items()},
        "settings": settings,
        "versions": kappa_table.versions(),
    }
    table = kappa_table.build([scanner.rows[name] for name in names], metadata)
    inside = table.loc[table["layer"].notna(), "tensor"]
    not_adapted, why = adapters.refused(checkpoint.config, inside)
    not_adapted |= dict.fromkeys(scanner.failures, "not measured by the scan")
    table.attrs |= {"not_adapted": not_adapted, "not_tried": why}
    if folder is not None and len(table):
        kappa_table.write(table, folder)
    if scanner.failures:
        raise ScanError(table, scanner.failures)
    return table


def to_measure(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[TensorInfo]:
    """The tensors that a scan with these patterns measures; InputError where there is none."""
    chosen = [
        info
        for info in checkpoint.tensors
        if len(info.shape) > 1
        and (_matches(info.name, include) if include else not info.why)
        and not _matches(info.name, exclude)
    ]
    if chosen or absent(checkpoint, include, exclude):
        return chosen
    reasons = "".join(f"\n  {', '.join(n)}: {why}" for why, n in left_out(checkpoint).items())
    what = f"{checkpoint.model_id}: no matrix left to measure{reasons}"
    remedy = "scan the whole model's folder, or include what to measure by patterns of whole names"
    raise InputError(what, remedy)


def absent(
    checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """What the checkpoint lacks of what is asked for: name or pattern → what is wrong, and do."""
    asked = {
        name: why
        for name, why in checkpoint.absent.items()
        if (not include or _matches(name, include)) and not _matches(name, exclude)
    }
    remedy = "fetch or save the whole model; --exclude these names to do without"
    return {
        name: (f"{name}: {why}", remedy)
        for why, names in kinds.by_reason(asked).items()
        for name in names
    }


def left_out(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Reason → tensors of two or more dimensions that are no weights; ``*`` for their numbers."""
    matrices = {i.name: i.why for i in checkpoint.tensors if i.why not in ("", kinds.VECTOR)}
    return kinds.by_reason(checkpoint.left_out | matrices)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    each = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in each)


class _Matrix(NamedTuple):
    name: str
    weight: torch.Tensor
    dtype: str
    key: str  # of its row in the journal


class _Scanner:
    """A scan under way: rows of its matrices, each appended, as it is finished, to the journal that
    a folder has; and why some are missing."""

    def __init__(
        self, checkpoint: Checkpoint, settings: dict[str, str], folder: Path | None, say: Report
    ) -> None:
        self._checkpoint, self._settings, self._say = checkpoint, settings, say
        self._journal = folder and folder / "kappa.rows.jsonl"
        self._finished = _finished(self._journal) if self._journal else {}
        self._done = self._total = 0
        self.rows: dict[str, dict[str, Any]] = {}
        # Their words alone: an error's traceback would keep its tensor in memory.
        self.failures = {p.what: (p.what, p.remedy) for p in checkpoint.problems}

    def run(self, infos: list[TensorInfo]) -> None:
        """Measure everything: small matrices side by side, then large ones one by one."""
        self._total = sum(len(info.matrices) for info in infos)
        small, large = [], []
        for info in infos:
            rows, *rest = info.shape[1:] if info.stack else info.shape
            on_cpu = self._settings["device"] == "cpu"
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
                self._keep(matrix.key, found)
        self._say(self._total, self._total, "")

    def _open(self, infos: list[TensorInfo]) -> Iterator[_Matrix]:
        """The matrices of tensors that no earlier scan finished, read one by one."""
        for info in infos:
            try:
                keys = {name: self._key(info, name) for name in info.matrices}
                known = {n: self._finished[k] for n, k in keys.items() if k in self._finished}
                self.rows |= known
                self._done += len(known)
                if len(known) == len(keys):
                    continue
                for name, weight in self._checkpoint.matrices(info):
                    if name not in known:
                        self._say(self._done, self._total, name)
                        yield _Matrix(name, weight, info.dtype, keys[name])
            except KappaError as problem:
                self.failures[info.name] = (problem.what, problem.remedy)

    def _measured(self, matrix: _Matrix) -> tuple[_Matrix, dict[str, Any] | KappaError]:
        try:
            row = kappa_table.measure(matrix.weight, matrix.name, **self._settings)
        except KappaError as problem:
            return matrix, problem
        return matrix, row | {"dtype": matrix.dtype}

    def _key(self, info: TensorInfo, name: str) -> str:
        """What a finished row is found by again; empty where none is kept."""
        if self._journal is None:
            return ""
        source = self._checkpoint
        origin = [source.model_id, source.revision, source.config, source.digest(info)]
        how = [self._settings, kappa_table.versions(), NUMERICS]
        return fingerprint([*origin, name, info.dtype, *how])

    def _keep(self, key: str, row: dict[str, Any]) -> None:
        if self._journal is None:
            return
        with open(self._journal, "a", encoding="utf-8") as stream:
            record = {"key": key, "row": row, "sum": fingerprint([key, row])}
            stream.write(json.dumps(record) + "\n")


def _finished(journal: Path) -> dict[str, dict[str, Any]]:
    """Key → row of those that are as they were written; the others are measured again."""
    rows = {}
    for line in whole_lines(journal):
        try:
            record = json.loads(line)
            if record["sum"] == fingerprint([record["key"], record["row"]]):
                rows[record["key"]] = record["row"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows


def scan_stage(profile: Profile) -> pd.DataFrame:
    """The pipeline's scan: the profile's model → ``kappa.parquet`` and ``kappa.csv``.

    Skipped while model, device and versions are those of the last run.
    """
    outputs = [profile.folder / "kappa.parquet", profile.folder / "kappa.csv"]
    inputs = {
        "weights": models.identity(profile.model),
        "device": models.pick_device(profile.device).type,
        "versions": kappa_table.versions(),
        "numerics": NUMERICS,
    }

    def make() -> None:
        with Progress("scan") as bar:
            scan(profile.model, profile.folder, device=profile.device, progress=bar.reach)

    stage("scan", profile.folder, inputs, outputs, make)
    return kappa_table.read(outputs[0])
