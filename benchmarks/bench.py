"""κ timed: ours against the author's way and PEFT's, on the same tensors in one process.

    python -m benchmarks.bench [--out DIR] [--device D] [--divide N] [--skip-model] [--soup COMMAND]

Writes ``bench.json`` and ``bench.png``/``.svg``. At full size (``--divide 1``) on 2 idle cores it
takes about a quarter of an hour, most of it in the routes that ours is compared with.
``--soup`` names the ``soup`` command of an environment of its own (PyPI ``soup-cli``), whose
``spectrum scan`` is then timed on the default model beside ``kappa scan``, as processes both.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from peft.helpers import KappaTuneSelector
from torch import nn

from benchmarks import synthetic
from kappa_lib import paths
from kappa_lib.figures.style import COLOURS, new_figure, save
from kappa_lib.files import write_json
from kappa_lib.progress import say
from kappa_lib.provenance import describe
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.kappa_table import measure
from kappa_lib.spectra.scan import scan
from kappa_lib.spectra.solvers import decompose
from kappa_lib.weights import models

AUTHOR = "torch.linalg.svd, fp32 (the author)"
SVDVALS = "torch.linalg.svdvals, fp32"
PEFT = "PEFT's KappaTuneSelector"
FLOOR = "floor: fp64 Gram, eigvalsh"
ROW, ALONE = OURS = ("ours, whole row", "ours, κ alone")
# Seconds from which one call is taken as it is.
LONG = 5.0


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
    """The plain route by a Gram matrix: all its eigenvalues, without error bounds."""
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
    """All routes on one matrix: seconds, and the error against a float64 SVD."""
    weight = synthetic.trained_like(*shape, synthetic.decay_of(module), seed=1).to(device)
    truth = synthetic.kappa_of(weight)
    routes = {}
    for name, route in ROUTES.items():
        seconds, cpu, kappa = _best(lambda route=route: route(weight))
        error = abs(kappa / truth - 1)
        routes[name] = {"seconds": seconds, "cpu_seconds": cpu, "error": error}
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

    calls: dict[str, Callable[[], Any]] = {
        name: lambda route=route: [route(w) for w in weights] for name, route in ROUTES.items()
    }
    # A new selector each time: it keeps what it has computed.
    calls[PEFT] = lambda: KappaTuneSelector(model, show_progress=False).get_best_targets()
    calls[ROW] = lambda: scan(model, device=device)
    calls[ALONE] = lambda: scan(model, device=device, method="extremes")
    rounds = [{name: timed(call)[:2] for name, call in calls.items()} for _ in range(3)]
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
        quiet = partial(subprocess.run, cwd=out, check=True, capture_output=True)
        return {name: timed(partial(quiet, command))[0] for name, command in wanted.items()}


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What our routes shall reach on a layer and, where it was timed, on the default model."""
    layer, parts = report["layer"]["seconds"], report["layer"]["parts"].values()
    error = max(part["routes"][name]["error"] for part in parts for name in OURS)
    # What is measured, the number, its goal, and whether more is better.
    goals = [
        ("layer, whole row: times as fast as svdvals", layer[SVDVALS] / layer[ROW], 3.0, True),
        ("layer, κ alone: times as fast as svdvals", layer[SVDVALS] / layer[ALONE], 4.5, True),
        ("layer, κ alone: times the floor's seconds", layer[ALONE] / layer[FLOOR], 2.0, False),
        ("layer: largest relative error of κ", error, 1e-6, False),
    ]
    if "model" in report:
        model = report["model"]["seconds"]
        goals += [
            ("model, whole row: times as fast as PEFT", model[PEFT] / model[ROW], 2.0, True),
            ("model, κ alone: times the floor's seconds", model[ALONE] / model[FLOOR], 2.0, False),
        ]
    found = []
    for what, measured, goal, more in goals:
        reached = measured >= goal if more else measured <= goal
        found.append({"what": what, "goal": goal, "measured": measured, "reached": reached})
    return found


def figure(report: dict[str, Any]) -> Figure:
    """Seconds of each route for the matrices of one layer, stacked by kind, and largest errors."""
    mix = report["layer"]
    names = list(mix["seconds"])
    drawn, (left, right) = new_figure(1, 2, figsize=(10, 3.2), sharey=True, width_ratios=[3, 2])
    start = [0.0] * len(names)
    for colour, (module, part) in zip(COLOURS, mix["parts"].items(), strict=False):
        times = mix["counted"][module]
        seconds = [times * part["routes"][name]["seconds"] for name in names]
        rows, cols = part["shape"]
        left.barh(names, seconds, left=start, color=colour, label=f"{times} × {rows}×{cols}")
        start = [a + b for a, b in zip(start, seconds, strict=True)]
    for place, total in enumerate(start):
        left.text(total, place, f" {total:.3g} s", va="center", fontsize=9)
    left.set(xlabel="seconds for a layer's seven matrices")
    left.margins(x=0.12)
    left.invert_yaxis()
    left.legend(fontsize=8)
    errors = [max(part["routes"][n]["error"] for part in mix["parts"].values()) for n in names]
    right.plot([max(error, 1e-17) for error in errors], range(len(names)), "o", color="black")
    right.axvline(1e-6, color=COLOURS[1], ls="--", lw=1, label="goal")
    right.set(xscale="log", xlabel="largest relative error of κ")
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(axis="y", visible=False)
    return drawn


def run(
    out: Path,
    *,
    device: str = "cpu",
    divide: int = 1,
    with_model: bool = True,
    soup: str | None = None,
) -> dict[str, Any]:
    """Write ``bench.json`` and its figure into ``out``; the options are those of the command line.

    Every dimension of Llama-3-8B's matrices is divided by ``divide``.
    """
    for route in ROUTES.values():
        route(torch.eye(8, device=device))  # first calls load libraries and start threads
    report: dict[str, Any] = {"load_average": os.getloadavg()[0], "divided_by": divide}
    if with_model:
        report["model"] = default_model(device)
    if soup:
        report["commands"] = commands(soup)
    shapes = {m: (a // divide, b // divide) for m, (a, b) in kappa_table.LLAMA_8B.items()}
    report["layer"] = layer(shapes, device)
    report["verdicts"] = verdicts(report)
    report |= {"versions": kappa_table.versions(), "provenance": describe(device)}
    write_json(out / "bench.json", report)
    save(figure(report), out, "bench")
    return report


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=paths.results("bench"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--divide", type=int, default=1, help="shrink every dimension")
    parser.add_argument(
        "--skip-model", dest="with_model", action="store_false", help="leave out the default model"
    )
    parser.add_argument("--soup", help="path of soup-cli's `soup`, to be timed as well")
    options = parser.parse_args()
    report = run(**vars(options))
    for found in report["verdicts"]:
        word = "reached" if found["reached"] else "missed"
        say(f"{found['what']}: {found['measured']:.3g} (goal {found['goal']:g}, {word})")
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
