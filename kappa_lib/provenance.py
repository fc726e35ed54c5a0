"""Where a number came from: code, packages, machine."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kappa_lib import __version__, paths

PACKAGES = ("torch", "transformers", "numpy", "datasets", "jiwer", "ctranslate2")
# Families of vector and matrix instructions: processors of one name differ in them, and so do the
# digits of what they compute.
INSTRUCTIONS = ("avx", "amx", "sve")


def _git(*arguments: str) -> str | None:
    if not (paths.ROOT / ".git").exists():
        return None  # an installed copy, or an archive: a repository around it is another's
    command = ["git", "-C", str(paths.ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # of an extra that is not installed


def _processor() -> str:
    told = Path("/proc/cpuinfo")  # of Linux; the first processor's name stands for all
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def describe(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Commit (and whether the tree was clean), versions, machine, threads, device and time."""
    changes = _git("status", "--porcelain")
    gpu = torch.device(device).type == "cuda"
    able = [name for name, has in torch.cpu.get_capabilities().items() if has]
    return {
        "kappa_lib": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "clean": None if changes is None else not changes,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": sorted(name for name in able if name.startswith(INSTRUCTIONS)),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
