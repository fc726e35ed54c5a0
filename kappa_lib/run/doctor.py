"""What on this machine would stop a run, and what to do about it: ``kappa doctor``."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kappa_lib import paths
from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import existing
from kappa_lib.text import counted
from kappa_lib.weights import assets, models

GB = 1e9
# The laptop profile: weights, gradients, moments and activations of SmolLM2-135M, with room for
# the system; below the second bound the kernel is likely to be ended for want of memory.
MEMORY_ENOUGH, MEMORY_LEAST = 8 * GB, 4 * GB
# Downloads, dequantised weights, encoded speech and two runs' checkpoints.
DISK_ENOUGH, DISK_LEAST = 5 * GB, 2 * GB


@dataclass(frozen=True)
class Check:
    """One finding: ``ok``, ``warn`` (a run works, perhaps slower or with less) or ``fail``."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"\n        → {self.remedy}" if self.remedy else ""
        return f"{self.level:<5} {self.what}{remedy}"


def pins(path: Path = paths.LOCK) -> list[Requirement]:
    """The lock's lines, in its order.

    Raises:
        InputError: a line that is not an exact pin, naming it.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for pin in found:
        specifiers = list(pin.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==":
            raise InputError(f"{path.name}: {pin} is not an exact pin", "write name==version")
    return found


def python(version: str = platform.python_version()) -> Iterator[Check]:
    """The interpreter's version, against what ``pyproject.toml`` asks for."""
    wanted = SpecifierSet(metadata.metadata("kappa-lib")["Requires-Python"])
    if version in wanted:
        yield Check("ok", f"Python {version} on {platform.platform()}")
    else:
        remedy = "install such a Python, then `bash reproduce.sh`"
        yield Check("fail", f"Python {version}, and the project needs {wanted}", remedy)


def packages(path: Path = paths.LOCK) -> Iterator[Check]:
    """Installed packages against the lock's pins for this platform and Python.

    A build label (``2.13.0+cpu``) satisfies the pin of its version.
    """
    if not path.is_file():
        yield Check("warn", f"{path}: no lock to compare with", "work from a clone of the project")
        return
    wanted = [pin for pin in pins(path) if not pin.marker or pin.marker.evaluate()]
    faults = 0
    for pin in wanted:
        try:
            found = metadata.version(pin.name)
            agrees = pin.specifier.contains(found, prereleases=True)
        except metadata.PackageNotFoundError:
            found, agrees = "missing", False
        if not agrees:
            faults += 1
            what = f"package {pin.name} is {found}, pinned {pin.specifier}"
            yield Check("fail", what, f"pip install -r {path.name}")
    if not faults:
        yield Check("ok", f"{len(wanted)} packages as pinned in {path.name}")


def kernel() -> Iterator[Check]:
    """Whether the notebooks' kernel ``python3`` is this interpreter's."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ModuleNotFoundError:
        remedy = "pip install '.[notebooks]' in the clone, to execute them"
        yield Check("warn", "no Jupyter here; only the notebooks need it", remedy)
        return
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield Check("fail", "no Jupyter kernel named python3", "pip install -r requirements.lock")
        return
    program = spec.argv[0]
    own = Path(spec.resource_dir).is_relative_to(sys.prefix) or program == sys.executable
    if own or not os.path.isabs(program):
        yield Check("ok", "Jupyter kernel python3 starts this environment's Python")
    else:
        yield Check(
            "fail",
            f"Jupyter kernel python3 starts {program}, not {sys.executable}",
            f"remove {spec.resource_dir}, or start through `bash reproduce.sh lab`",
        )


def _amount(kind: str, free: float, enough: float, least: float, remedy: str) -> Check:
    text = f"{kind}: {free / GB:.1f} GB"
    if free >= enough:
        return Check("ok", text)
    return Check("warn" if free >= least else "fail", f"{text}, {enough / GB:.0f} wanted", remedy)


def disk() -> Iterator[Check]:
    """Room where downloads and results go."""
    for name, folder, variable in (
        ("cache", paths.cache(), "KAPPA_HOME"),
        ("results", paths.results("laptop").parent, "KAPPA_RESULTS"),
    ):
        remedy = f"free some space, or point {variable} at a larger disk"
        free = shutil.disk_usage(existing(folder)).free
        yield _amount(f"disk free for {name} ({folder})", free, DISK_ENOUGH, DISK_LEAST, remedy)


def memory() -> Iterator[Check]:
    """Memory that a run could have."""
    available = psutil.virtual_memory().available
    remedy = "close other programs, or take --profile smoke"
    yield _amount("memory available", available, MEMORY_ENOUGH, MEMORY_LEAST, remedy)


def device() -> Iterator[Check]:
    """What computes."""
    cpu = f"CPU: {counted(os.cpu_count() or 1, 'core')}, torch {torch.__version__}"
    yield Check("ok", f"{cpu}, {models.pick_dtype('auto', 'cpu')} where a profile says auto")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            yield Check("ok", f"CUDA: {found.name}, {found.total_memory / GB:.0f} GB; used by auto")
    elif torch.backends.mps.is_available():
        yield Check("ok", "MPS present and not used: its small singular values are wrong")
    elif shutil.which("nvidia-smi"):
        yield Check(
            "warn",
            f"an NVIDIA driver is installed, but torch {torch.__version__} sees no GPU",
            "install the CUDA build of the pinned torch to use it; the CPU works too",
        )
    else:
        yield Check("ok", "no GPU; none is needed for the profiles smoke, laptop and study")


def data(verify: bool = False) -> Iterator[Check]:
    """Weights and speech in the cache.

    Args:
        verify: hash every file instead of trusting the record of the last check.
    """
    for name, asset_of in assets.CATALOGUE.items():
        try:
            asset = asset_of()
            name = asset.name
            if asset.folder.is_dir():
                folder = asset.get(verify=verify)
                origin = assets.read_record(folder)["origin"]
                yield Check("ok", f"{name}: ready, from {origin}")
            else:
                size = f"{asset.size / 1e6:.0f} MB"
                yield Check("warn", f"{name}: not here yet", f"the next run fetches it ({size})")
        except AssetError as error:
            yield Check("fail", f"{name}: {error.what}", error.remedy)


def examine(verify: bool = False) -> Iterator[Check]:
    """Every finding about this machine, in the order of the steps of a run; see :func:`data`."""
    for check in (python, packages, kernel, disk, memory, device):
        yield from check()
    yield from data(verify)
