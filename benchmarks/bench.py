"""κ timed: ours against the author's way and PEFT's, on the same tensors in one process.

    python -m benchmarks.bench [--out DIR] [--divide N] [--skip-model]

Writes ``bench.json`` and ``bench.png``/``.svg``. At full size (``--divide 1``) on 2 cores it
takes about a quarter of an hour, most of it in the routes that ours is compared with.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.helpers import KappaTuneSelector
from scipy.linalg import eigvalsh_tridiagonal
from torch import nn

from benchmarks import figure as figures
from benchmarks import synthetic
from benchmarks.memory import PeakMemory
from kappa_lib import paths
from kappa_lib.figures.style import save
from kappa_lib.files import write_json
from kappa_lib.progress import say
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.kappa_table import measure
from kappa_lib.spectra.solvers import decompose
from kappa_lib.weights import models, sizes

OURS = ("ours, whole row", "ours, κ alone")
# Seconds from which one call is taken as it is.
LONG = 5.0
GOALS = {"speed-up over svdvals": 3.0, "relative error": 1e-6, "times the floor": 2.0}


def _author(weight: torch.Tensor) -> float:
    s = torch.linalg.svd(weight.float(), full_matrices=False).S
    return float(s[0] / s[-1])


def _svdvals(weight: torch.Tensor) -> float:
    s = torch.linalg.svdvals(weight.float())
    return float(s[0] / s[-1])


def _peft(weight: torch.Tensor) -> float:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    selector = KappaTuneSelector(nn.Sequential(layer), show_progress=False)
    selector.get_best_targets()
    return selector._condition_numbers["0"]


ROUTES: dict[str, Callable[[torch.Tensor], float]] = {
    "torch.linalg.svd, fp32 (the author)": _author,
    "torch.linalg.svdvals, fp32": _svdvals,
    "PEFT's KappaTuneSelector": _peft,
    OURS[0]: lambda weight: measure(weight)["kappa"],
    OURS[1]: lambda weight: decompose(weight, "extremes").kappa,
}


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _best(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and CPU seconds of the fastest of three calls (or of one long one), and its result.

    The CPU seconds of all threads tell a busy machine from a slow route.
    """
    tries = []
    while len(tries) < 3 and (not tries or tries[0][0] < LONG):
        began = time.process_time()
        seconds, result = _timed(function)
        tries.append((seconds, time.process_time() - began, result))
    return min(tries, key=lambda one: one[0])


def dgemm_rate(n: int) -> float:
    """Best of three float64 matrix products of size n, in flop/s."""
    a = np.random.default_rng(0).standard_normal((n, n))
    return 2.0 * n**3 / min(_timed(lambda: a @ a)[0] for _ in range(3))


def floor_seconds(rows: int, cols: int, rate: float) -> float:
    """Seconds of one symmetric rank-k product at ``rate`` plus one tridiagonal eigenvalue solve."""
    k, n = sorted((rows, cols))
    generator = np.random.default_rng(k)
    diagonal, beside = generator.standard_normal(k), generator.standard_normal(k - 1)
    solve, _ = _timed(lambda: eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf"))
    return k * k * n / rate + solve


def one_shape(module: str, shape: tuple[int, int], rate: float) -> dict[str, Any]:
    """All routes on one matrix: seconds, peak memory, error against a float64 SVD."""
    weight = synthetic.trained_like(*shape, synthetic.decay_of(module), seed=1)
    truth = synthetic.kappa_of(weight)
    routes = {}
    for name, route in ROUTES.items():
        with PeakMemory() as memory:
            seconds, cpu, kappa = _best(lambda route=route: route(weight))
        error = abs(kappa / truth - 1)
        routes[name] = {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "error": error,
            "peak_mb": memory.rise / 1e6,
        }
        say(f"{module} {shape[0]}×{shape[1]} {name}: {seconds:.2f} s, error {error:.0e}")
    floor = floor_seconds(*shape, rate)
    return {"shape": list(shape), "kappa": truth, "floor_seconds": floor, "routes": routes}


def layer(shapes: dict[str, tuple[int, int]], rate: float) -> dict[str, Any]:
    """A decoder layer: each shape and kind of spectrum timed once and counted as it occurs."""
    # o is shaped like q, v like k, and the three MLP matrices are one shape, one transposed.
    counted = {"self_attn.q_proj": 2, "self_attn.k_proj": 2, "mlp.up_proj": 2, "mlp.down_proj": 1}
    parts = {module: one_shape(module, shapes[module], rate) for module in counted}
    total = {
        name: sum(n * parts[m]["routes"][name]["seconds"] for m, n in counted.items())
        for name in ROUTES
    }
    floor = sum(n * parts[m]["floor_seconds"] for m, n in counted.items())
    return {"counted": counted, "parts": parts, "seconds": total, "floor_seconds": floor}


def verdicts(mix: dict[str, Any]) -> dict[str, Any]:
    """The goals, what was measured, and whether it reaches them, for both of our routes."""
    found = {}
    for name in OURS:
        seconds = mix["seconds"][name]
        values = [
            mix["seconds"]["torch.linalg.svdvals, fp32"] / seconds,
            max(part["routes"][name]["error"] for part in mix["parts"].values()),
            seconds / mix["floor_seconds"],
        ]
        reached = [values[0] >= 3.0, values[1] <= 1e-6, values[2] <= 2.0]
        found[name] = {
            goal: {"goal": GOALS[goal], "measured": value, "reached": bool(yes)}
            for goal, value, yes in zip(GOALS, values, reached, strict=True)
        }
    return found


def default_model() -> dict[str, float]:
    """Seconds of each route over all matrices of the default model; PEFT as it is called."""
    model, _ = models.load(models.DEFAULT)
    weights = [
        m.weight for n, m in model.named_modules() if "layers." in n and hasattr(m, "weight")
    ]
    weights = [w.detach() for w in weights if w.ndim == 2]
    seconds = {
        name: _timed(lambda route=route: [route(w) for w in weights])[0]
        for name, route in ROUTES.items()
        if route is not _peft
    }
    selector = KappaTuneSelector(model, show_progress=False)
    seconds["PEFT's KappaTuneSelector"] = _timed(selector.get_best_targets)[0]
    return seconds


def machine() -> dict[str, Any]:
    """What the timings depend on."""
    return {
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": kappa_table.versions(),
    }


def run(out: Path, *, divide: int = 1, with_model: bool = True) -> dict[str, Any]:
    """Run the benchmark and write ``bench.json`` and its figure.

    Args:
        out: folder.
        divide: makes every dimension of Llama-3-8B's matrices smaller by this factor.
        with_model: also time the default model's matrices.
    """
    llama = sizes.language_model(sizes.llama_config("meta-llama/Llama-3.1-8B-Instruct"))
    shapes = {m: (a // divide, b // divide) for m, (a, b) in llama.shapes.items()}
    _peft(torch.eye(8))  # first calls load libraries and start threads
    rate = dgemm_rate(4096 // divide)
    mix = layer(shapes, rate)
    report = {
        "machine": machine(),
        "divided_by": divide,
        "dgemm_gflops": rate / 1e9,
        "layer": mix,
        "verdicts": verdicts(mix),
    }
    if with_model:
        report["default_model_seconds"] = default_model()
    write_json(out / "bench.json", report)
    save(figures.layer(report), out, "bench")
    return report


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=paths.results("bench"))
    parser.add_argument("--divide", type=int, default=1, help="shrink every dimension")
    parser.add_argument("--skip-model", action="store_true", help="leave out the default model")
    options = parser.parse_args()
    report = run(options.out, divide=options.divide, with_model=not options.skip_model)
    for name, goals in report["verdicts"].items():
        for goal, found in goals.items():
            word = "reached" if found["reached"] else "missed"
            say(f"{name}: {goal} {found['measured']:.3g} (goal {found['goal']:g}, {word})")
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
