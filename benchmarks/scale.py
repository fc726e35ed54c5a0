"""The scale run: an 8B-shaped checkpoint on disk, scanned by ``kappa scan``, then deleted.

    python -m benchmarks.scale [--out DIR] [--layers 32] [--method auto] [--keep]

Writes 16 GB of bf16 shards with Llama-3-8B's shapes (random weights with a falling spectrum) into
``DIR/checkpoint``, scans them in a process of its own, and writes ``scale.json`` with wall time
and that process's peak memory. An interrupted scan goes on where it stopped.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import bench, synthetic
from benchmarks.memory import PeakMemory
from kappa_lib import paths
from kappa_lib.errors import KappaError
from kappa_lib.files import write_json
from kappa_lib.progress import track
from kappa_lib.spectra import kappa_table
from kappa_lib.weights import sizes

LLAMA_3_8B = sizes.language_model(sizes.llama_config("meta-llama/Llama-3.1-8B-Instruct"))


def run(
    out: Path,
    *,
    shapes: dict[str, tuple[int, int]] | None = None,
    layers: int = LLAMA_3_8B.layers,
    vocabulary: int = LLAMA_3_8B.vocabulary,
    method: str = "auto",
    keep: bool = False,
) -> dict[str, Any]:
    """Make the checkpoint, scan it, report; delete it unless ``keep``.

    All goes into ``out``. ``shapes`` are module path inside a layer → (rows, cols), Llama-3-8B's
    by default; ``method`` is one of :mod:`kappa_lib.spectra.solvers`.

    Raises:
        SpaceError: no room for the checkpoint.
        KappaError: the scan failed; its message is on stderr.
    """
    folder = out / "checkpoint"
    shapes = shapes or LLAMA_3_8B.shapes
    try:
        # Made anew each time: a checkpoint cut short by a kill would be taken for broken.
        for _ in track(
            synthetic.write_checkpoint(folder, shapes, layers, vocabulary),
            "write checkpoint",
            layers + 1,
        ):
            continue
        size = sum(path.stat().st_size for path in folder.iterdir())
        seconds, peak = _scan(folder, out, method)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    table = kappa_table.read(out)
    report = {
        "machine": bench.machine(),
        "layers": layers,
        "matrices": len(table),
        "checkpoint_gb": size / 1e9,
        "method": method,
        "methods_taken": table["method"].value_counts().to_dict(),
        "largest_error_bound": float(table["kappa_error"].max()),
        "seconds": seconds,
        "peak_gib": peak / 2**30,
    }
    write_json(out / "scale.json", report)
    return report


def _scan(folder: Path, out: Path, method: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of ``kappa scan``, a process of its own."""
    command = [sys.executable, "-m", "kappa_lib.run.cli", "scan", str(folder), "-o", str(out)]
    command += ["--device", "cpu", "--method", method]
    start = time.perf_counter()
    child = subprocess.Popen(command)
    # Sampled: the system's own record of a child's peak begins with this process's memory.
    with PeakMemory(child.pid) as memory:
        status = child.wait()
    seconds = time.perf_counter() - start
    if status != 0:
        raise KappaError(f"the scan ended with status {status}", "see the lines above")
    return seconds, memory.highest


def main() -> None:
    """Command line of the scale run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=paths.results("scale"))
    parser.add_argument("--layers", type=int, default=LLAMA_3_8B.layers)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint on the disk")
    report = run(**vars(parser.parse_args()))
    print(
        f"{report['matrices']} matrices, {report['checkpoint_gb']:.1f} GB: "
        f"{report['seconds'] / 60:.1f} min, peak memory {report['peak_gib']:.2f} GiB"
    )


if __name__ == "__main__":
    main()
