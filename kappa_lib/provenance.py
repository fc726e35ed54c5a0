"""Where a number came from: code, packages, machine."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from kappa_lib import __version__, paths

PACKAGES = ("torch", "transformers", "numpy", "datasets", "jiwer", "ctranslate2")


def _git(*arguments: str) -> str | None:
    if not (paths.ROOT / ".git").exists():
        return None  # an installed copy, or an archive: a repository around it is another's
    command = ["git", "-C", str(paths.ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here


def _processor() -> str:
    told = Path("/proc/cpuinfo")  # of Linux; the first processor's name stands for all
    found = re.search(r"model name\s*: (.+)", told.read_text() if told.is_file() else "")
    return found[1].strip() if found else platform.processor() or platform.machine()


def describe(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Commit (and whether the tree was clean), versions, machine, threads, device and time."""
    changes = _git("status", "--porcelain")
    gpu = torch.device(device).type == "cuda"
    # Families of vector and matrix instructions: processors of one name differ in them, and so do
    # the digits of what they compute.
    families = ("avx", "amx", "sve")
    able = [name for name, has in torch.cpu.get_capabilities().items() if has]
    return {
        "kappa_lib": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "clean": None if changes is None else not changes,
        "python": platform.python_version(),
        "packages": {n: next((d.version for d in distributions(name=n)), None) for n in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": sorted(name for name in able if name.startswith(families)),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
