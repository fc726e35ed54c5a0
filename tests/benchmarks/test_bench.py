"""The benchmark at small sizes."""

import numpy as np
import pytest
import torch

from benchmarks import bench
from kappa_lib.files import read_json


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    return bench.run(out, divide=32, with_model=False), out


def test_every_route_is_timed_on_every_shape(report):
    parts = report[0]["layer"]["parts"].values()
    assert all(set(part["routes"]) == set(bench.ROUTES) for part in parts)
    seconds = [route["seconds"] for part in parts for route in part["routes"].values()]
    assert min(seconds) > 0


def test_layer_counts_seven_matrices_and_adds_up(report):
    mix = report[0]["layer"]
    assert sum(mix["counted"].values()) == 7
    name = bench.OURS[0]
    total = sum(n * mix["parts"][m]["routes"][name]["seconds"] for m, n in mix["counted"].items())
    assert mix["seconds"][name] == pytest.approx(total)


def test_ours_is_accurate_where_float32_routes_are_not(report):
    part = report[0]["layer"]["parts"]["self_attn.q_proj"]["routes"]
    assert all(part[name]["error"] < 1e-8 for name in bench.OURS)
    assert part["torch.linalg.svdvals, fp32"]["error"] > 1e-7


def test_report_and_figure_are_written(report):
    found, out = report
    assert read_json(out / "bench.json") == found
    assert (out / "bench.png").stat().st_size > 10_000
    assert (out / "bench.svg").is_file()


def test_verdicts_follow_the_measurement(report):
    found = {verdict["what"]: verdict for verdict in report[0]["verdicts"]}
    assert len(found) == 4
    assert all(what.startswith("layer") for what in found)  # the model was not timed
    seconds = report[0]["layer"]["seconds"]
    row = found["layer, whole row: times as fast as svdvals"]
    assert row["measured"] == seconds[bench.SVDVALS] / seconds[bench.ROW]
    assert row["reached"] == (row["measured"] >= row["goal"])
    floor = found["layer, κ alone: times the floor's seconds"]
    assert floor["measured"] == seconds[bench.ALONE] / seconds[bench.FLOOR]
    assert floor["reached"] == (floor["measured"] <= floor["goal"])


@pytest.mark.parametrize(
    ("what", "slower", "more"),
    [
        ("layer, whole row: times as fast as svdvals", bench.SVDVALS, True),
        ("layer, κ alone: times the floor's seconds", bench.ALONE, False),
        ("model, whole row: times as fast as PEFT", bench.PEFT, True),
        ("model, κ alone: times the floor's seconds", bench.ALONE, False),
    ],
)
def test_a_goal_is_reached_on_one_side_of_its_bound_only(report, what, slower, more):
    def reached(times):
        seconds = {"seconds": dict.fromkeys(bench.ROUTES, 1.0) | {slower: times}}
        found = bench.verdicts({"layer": report[0]["layer"] | seconds, "model": seconds})
        return next(verdict["reached"] for verdict in found if verdict["what"] == what)

    assert [reached(times) for times in (1.0, 10.0)] == [not more, more]


def test_the_floor_is_numpys_condition_number():
    weight = torch.randn(40, 90, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.cond(weight.double().numpy())
    assert bench.ROUTES[bench.FLOOR](weight) == pytest.approx(expected, rel=1e-9)
