"""Two checkpoints of the same shapes → what training changed, a few tensors in memory at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kappa_lib.errors import InputError, KappaError
from kappa_lib.files import require_folder, write_text
from kappa_lib.spectra.kappa_table import layer_of, types, types_of
from kappa_lib.spectra.scan import Report, ScanError, Source, to_measure
from kappa_lib.spectra.spectrum import spectral_change
from kappa_lib.weights.checkpoint import Checkpoint, TensorInfo
from kappa_lib.weights.loaded import as_used
from kappa_lib.weights.models import open_checkpoint, pick_device


@dataclass(frozen=True)
class Comparison:
    """What lies between two checkpoints."""

    # A row per matrix that both have: ``tensor``, ``type``, ``layer``, ``rows``, ``cols`` and the
    # columns of :func:`kappa_lib.spectra.spectrum.spectral_change`.
    table: pd.DataFrame
    before: str  # what the first calls itself
    after: str
    only_before: list[str]  # stored tensors that the second lacks
    only_after: list[str]

    def summary(self) -> pd.DataFrame:
        """A row per module type: its ``tensors``, how many have ``changed``, and means of κ's
        change, of the effective ranks and of the angles."""
        rows = self.table.assign(changed=self.table["relative_change"] > 0)
        found = rows.groupby("type", sort=False).agg(
            tensors=("tensor", "size"),
            changed=("changed", "sum"),
            **{name: (name, "mean") for name in ("relative_change", "dlogkappa")},
            **{name: (name, "mean") for name in rows if name.startswith(("effective", "angle"))},
        )
        return found.loc[types(rows, outside=True)].reset_index()


def compare(
    before: Source,
    after: Source,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Report | None = None,
) -> Comparison:
    """Compare every matrix of two checkpoints, for instance before and after fine-tuning.

    Arguments and progress as for :func:`kappa_lib.spectra.scan.scan`, whose choice of matrices
    this follows; the table goes into ``out`` as ``compare.csv``.

    Raises:
        InputError: an unusable argument, no matrix in common, or one of different shapes; before
            any tensor is read.
        CheckpointError: one of the two is broken.
        ScanError: some pairs could not be compared, after the others were written.
    """
    if out is not None:
        require_folder(Path(out))
    device = pick_device(device).type
    pair = [as_used(open_checkpoint(source)) for source in (before, after)]
    for checkpoint in pair:
        if checkpoint.problems:
            raise checkpoint.problems[0]
    old, new = ({i.name: i for i in to_measure(one, include, exclude)} for one in pair)
    common = [(info, new[name]) for name, info in old.items() if name in new]
    _same_shapes(pair, common)

    say = progress or (lambda *_: None)
    total = sum(len(info.matrices) for info, _ in common)
    rows, failures, done = [], {}, 0
    for info, other in common:
        say(done, total, info.name)
        try:
            both = zip(pair[0].matrices(info), pair[1].matrices(other), strict=True)
            for (name, first), (_, second) in both:
                change = spectral_change(first.to(device), second.to(device))
                shape = {"rows": first.shape[0], "cols": first.shape[1]}
                rows.append({"tensor": name, "layer": layer_of(name), **shape, **change})
        except KappaError as problem:
            what = problem.what.removeprefix(f"{info.name}: ")  # what cannot be read is named
            failures[info.name] = (f"{info.name}: {what}", problem.remedy)
        done += len(info.matrices)
    say(total, total, "")
    table = pd.DataFrame(rows)
    if len(table):
        table["layer"] = table["layer"].astype("Int64")
        table.insert(1, "type", table["tensor"].map(types_of(table["tensor"])))
        if out is not None:
            write_text(Path(out) / "compare.csv", table.to_csv(index=False))
    if failures:
        raise ScanError(table, failures)
    only_before = [name for name in old if name not in new]
    only_after = [name for name in new if name not in old]
    return Comparison(table, *(one.model_id for one in pair), only_before, only_after)


def _same_shapes(pair: list[Checkpoint], infos: list[tuple[TensorInfo, TensorInfo]]) -> None:
    models = f"{pair[0].model_id} and {pair[1].model_id}"
    if not infos:
        raise InputError(f"{models} have no matrix in common", "compare a model with its own kind")
    different = [(a, b) for a, b in infos if a.shape != b.shape]
    if different:
        first, second = different[0]
        shapes = " and ".join("×".join(map(str, info.shape)) for info in (first, second))
        what = f"{models} differ in the shapes of {len(different)} of {len(infos)} tensors:"
        remedy = "compare checkpoints of one architecture and size, or --exclude what differs"
        raise InputError(f"{what} {first.name} is {shapes}", remedy)
