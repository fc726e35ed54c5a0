"""κ timed: ours against the author's way and PEFT's, on the same tensors in one process.

    python -m benchmarks.bench [--out DIR] [--device D] [--divide N] [--skip-model] [--soup COMMAND]

Writes ``bench.json`` and ``bench.png``/``.svg``. At full size (``--divide 1``) on 2 idle cores it
takes about a quarter of an hour, most of it in the routes that ours is compared with.
``--soup`` names the ``soup`` command of an environment of its own (PyPI ``soup-cli``), whose
``spectrum scan`` is then timed on the default model beside ``kappa scan``, as processes both.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.helpers import KappaTuneSelector
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
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.solvers import decompose
from kappa_lib.weights import models, sizes

AUTHOR = "torch.linalg.svd, fp32 (the author)"
SVDVALS = "torch.linalg.svdvals, fp32"
PEFT = "PEFT's KappaTuneSelector"
FLOOR = "floor: fp64 Gram, eigvalsh"
ROW, ALONE = OURS = ("ours, whole row", "ours, κ alone")
# Seconds from which one call is taken as it is.
LONG = 5.0


@dataclass(frozen=True)
class Goal:
    """What a route shall reach.

    Attributes:
        what: in words.
        bound: the number to be reached.
        least: whether more is better.
        measured: the report's number.
    """

    what: str
    bound: float
    least: bool
    measured: Callable[[dict[str, Any]], float]

    def verdict(self, report: dict[str, Any]) -> dict[str, Any]:
        """Goal, measured value and whether it is reached."""
        value = self.measured(report)
        reached = value >= self.bound if self.least else value <= self.bound
        return {"what": self.what, "goal": self.bound, "measured": value, "reached": reached}


def _times(slower: str, faster: str, where: str = "layer") -> Callable[[dict[str, Any]], float]:
    def ratio(report: dict[str, Any]) -> float:
        seconds = report[where]["seconds"]
        return seconds[slower] / seconds[faster]

    return ratio


def _largest_error(report: dict[str, Any]) -> float:
    parts = report["layer"]["parts"].values()
    return max(part["routes"][name]["error"] for part in parts for name in OURS)


LAYER_GOALS = (
    Goal("layer, whole row: times as fast as svdvals", 3.0, True, _times(SVDVALS, ROW)),
    Goal("layer, κ alone: times as fast as svdvals", 4.5, True, _times(SVDVALS, ALONE)),
    Goal("layer, κ alone: times the floor's seconds", 2.0, False, _times(ALONE, FLOOR)),
    Goal("layer: largest relative error of κ", 1e-6, False, _largest_error),
)
MODEL_GOALS = (
    Goal("model, whole row: times as fast as PEFT", 2.0, True, _times(PEFT, ROW, "model")),
    Goal("model, κ alone: times the floor's seconds", 2.0, False, _times(ALONE, FLOOR, "model")),
)


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


def _plain_gram(weight: torch.Tensor) -> float:
    """The least that any route by eigenvalues of the Gram matrix does, without error bounds."""
    wide = weight.double()
    wide = wide if wide.shape[0] >= wide.shape[1] else wide.T
    squares = torch.linalg.eigvalsh(wide.T @ wide)
    return float((squares[-1] / squares[0]).sqrt())


ROUTES: dict[str, Callable[[torch.Tensor], float]] = {
    AUTHOR: _author,
    SVDVALS: _svdvals,
    PEFT: _peft,
    FLOOR: _plain_gram,
    ROW: lambda weight: measure(weight, device=weight.device.type)["kappa"],
    ALONE: lambda weight: decompose(weight, "extremes", device=weight.device.type).kappa,
}


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of all threads, and the result of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def _best(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """The fastest of three calls, or one long one; see :func:`timed`.

    The CPU seconds of all threads tell a busy machine from a slow route.
    """
    tries = []
    while len(tries) < 3 and (not tries or tries[0][0] < LONG):
        tries.append(timed(function))
    return min(tries, key=lambda one: one[0])


def one_shape(module: str, shape: tuple[int, int], device: str) -> dict[str, Any]:
    """All routes on one matrix: seconds, the host's peak memory, error against a float64 SVD."""
    weight = synthetic.trained_like(*shape, synthetic.decay_of(module), seed=1).to(device)
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
    return {"shape": list(shape), "kappa": truth, "routes": routes}


def layer(shapes: dict[str, tuple[int, int]], device: str) -> dict[str, Any]:
    """A decoder layer: each shape and kind of spectrum timed once and counted as it occurs."""
    # o is shaped like q, v like k, and the three MLP matrices are one shape, one transposed.
    counted = {"self_attn.q_proj": 2, "self_attn.k_proj": 2, "mlp.up_proj": 2, "mlp.down_proj": 1}
    parts = {module: one_shape(module, shapes[module], device) for module in counted}
    total = {
        name: sum(n * parts[m]["routes"][name]["seconds"] for m, n in counted.items())
        for name in ROUTES
    }
    return {"counted": counted, "parts": parts, "seconds": total}


def default_model(device: str) -> dict[str, Any]:
    """Each route over all matrices of the default model: the fastest of three rounds.

    Ours and PEFT's as they are called on a model; the rounds go through all routes in turn, so
    that a machine that is busy for a while slows all of them.
    """
    model, _ = models.load(models.DEFAULT, device=device)
    weights = [
        m.weight.detach()
        for n, m in model.named_modules()
        if "layers." in n and hasattr(m, "weight") and m.weight.ndim == 2
    ]

    def calls() -> dict[str, Callable[[], Any]]:
        each = {
            name: lambda route=route: [route(w) for w in weights] for name, route in ROUTES.items()
        }
        # Anew in each round: the selector keeps what it has computed.
        each[PEFT] = KappaTuneSelector(model, show_progress=False).get_best_targets
        each[ROW] = lambda: scan(model, device=device)
        each[ALONE] = lambda: scan(model, device=device, method="extremes")
        return each

    rounds = [{name: timed(call)[:2] for name, call in calls().items()} for _ in range(3)]
    best = {name: min(one[name] for one in rounds) for name in ROUTES}
    for name, (seconds, _) in best.items():
        say(f"default model, {len(weights)} matrices, {name}: {seconds:.2f} s")
    return {
        "matrices": len(weights),
        "seconds": {name: seconds for name, (seconds, _) in best.items()},
        "cpu_seconds": {name: cpu for name, (_, cpu) in best.items()},
    }


def commands(soup: str) -> dict[str, float]:
    """Wall seconds of ``soup spectrum scan`` and ``kappa scan`` on the default model's folder."""
    folder = str(models.weights(models.DEFAULT))
    with tempfile.TemporaryDirectory() as out:
        wanted = {
            "kappa scan": [sys.executable, "-m", "kappa_lib.run.cli", "scan", folder, "-o", out],
            "soup spectrum scan": [
                *(str(Path(soup).absolute()), "spectrum", "scan", "--model", folder),
                *("--no-cache", "--output", "soup.yaml"),
            ],
        }
        return {
            name: timed(
                lambda command=command: subprocess.run(
                    command, cwd=out, check=True, capture_output=True
                )
            )[0]
            for name, command in wanted.items()
        }


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the timings depend on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": kappa_table.versions(),
    }


def run(
    out: Path,
    *,
    device: str = "cpu",
    divide: int = 1,
    with_model: bool = True,
    soup: str | None = None,
) -> dict[str, Any]:
    """Run the benchmark and write ``bench.json`` and its figure.

    Args:
        out: folder.
        device: of every route, ``cpu`` or ``cuda``.
        divide: makes every dimension of Llama-3-8B's matrices smaller by this factor.
        with_model: also time the default model's matrices.
        soup: the ``soup`` command to be timed, None for none.
    """
    llama = sizes.language_model(sizes.llama_config("meta-llama/Llama-3.1-8B-Instruct"))
    for route in ROUTES.values():
        route(torch.eye(8, device=device))  # first calls load libraries and start threads
    report: dict[str, Any] = {"machine": machine(device), "divided_by": divide}
    if with_model:
        report["model"] = default_model(device)
    if soup:
        report["commands"] = commands(soup)
    shapes = {m: (a // divide, b // divide) for m, (a, b) in llama.shapes.items()}
    report["layer"] = layer(shapes, device)
    goals = LAYER_GOALS + (MODEL_GOALS if with_model else ())
    report["verdicts"] = [goal.verdict(report) for goal in goals]
    write_json(out / "bench.json", report)
    save(figures.layer(report), out, "bench")
    return report


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=paths.results("bench"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--divide", type=int, default=1, help="shrink every dimension")
    parser.add_argument("--skip-model", action="store_true", help="leave out the default model")
    parser.add_argument("--soup", help="path of soup-cli's `soup`, to be timed as well")
    options = parser.parse_args()
    report = run(
        options.out,
        device=options.device,
        divide=options.divide,
        with_model=not options.skip_model,
        soup=options.soup,
    )
    for found in report["verdicts"]:
        word = "reached" if found["reached"] else "missed"
        say(f"{found['what']}: {found['measured']:.3g} (goal {found['goal']:g}, {word})")
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
