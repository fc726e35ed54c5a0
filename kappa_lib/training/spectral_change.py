"""What a finished run did to its tensors: κ, singular values and singular vectors, as a table."""

from pathlib import Path

import pandas as pd
from safetensors import safe_open
from torch import Tensor

from kappa_lib import distributed
from kappa_lib.errors import InputError
from kappa_lib.files import replacing
from kappa_lib.profiles import Profile
from kappa_lib.progress import Progress
from kappa_lib.spectra.kappa_table import layer_of, type_of
from kappa_lib.spectra.selection import Selection
from kappa_lib.spectra.spectrum import spectral_change
from kappa_lib.training.checkpoints import RunState, run_folder
from kappa_lib.training.experiment import Experiment


def record_spectral_change(experiment: Experiment, selection: Selection, seed: int) -> pd.DataFrame:
    """Compare a finished run's tensors with those it began from, unless that has been done.

    Several processes share the tensors.

    Returns:
        ``spectra.csv`` of the run's folder: a row a tensor with ``tensor``, ``type``, ``layer`` and
        the columns of :func:`kappa_lib.spectra.spectrum.spectral_change`.
    """
    folder = run_folder(experiment.profile, selection.arm, seed)
    path = folder / "spectra.csv"
    if not distributed.broadcast(path.is_file()):
        experiment.restore()
        rows = changes(dict(experiment.llm.named_parameters()), folder / RunState.MODEL, selection)
        if distributed.is_main_process():
            with replacing(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
        distributed.barrier()
    return pd.read_csv(path)


def spectral_changes(profile: Profile) -> pd.DataFrame:
    """The ``spectra.csv`` of a profile's runs, one under the other, with ``arm`` and ``seed``.

    Raises:
        InputError: no run has left one.
    """
    runs = [(arm, seed) for arm in profile.arms for seed in profile.seeds]
    paths = {run: run_folder(profile, *run) / "spectra.csv" for run in runs}
    found = {run: pd.read_csv(path) for run, path in paths.items() if path.is_file()}
    if not found:
        raise InputError(
            f"{profile.folder}: no spectra.csv of a run", "set spectra: true and run notebook 04"
        )
    return pd.concat(found, names=["arm", "seed", None]).reset_index(["arm", "seed"])


def changes(before: dict[str, Tensor], after: Path, selection: Selection) -> list[dict]:
    """A row for each of the selection's tensors, by name before and in the file ``after``."""
    names = selection.tensors
    mine, rows = distributed.shard(len(names)), {}
    with safe_open(after, framework="pt") as stored, Progress("spectra", len(mine)) as progress:
        for number in mine:
            name = names[number]
            old = before[name]
            change = spectral_change(old, stored.get_tensor(f"llm.{name}").to(old.device))
            rows[number] = {"tensor": name, "type": type_of(name), "layer": layer_of(name)} | change
            progress.update()
    return distributed.all_gather(rows)
