"""The benchmark and the scale run at small sizes."""

import pytest

from benchmarks import bench, scale
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


def test_verdict_follows_the_measurement(report):
    for goals in report[0]["verdicts"].values():
        speed = goals["speed-up over svdvals"]
        assert speed["reached"] == (speed["measured"] >= speed["goal"])
        error = goals["relative error"]
        assert error["reached"] == (error["measured"] <= error["goal"])


def test_scale_run_measures_and_cleans_up(tmp_path):
    shapes = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (128, 64)}
    report = scale.run(tmp_path, shapes=shapes, layers=2, vocabulary=100)
    assert report["matrices"] == 4
    assert report["peak_gib"] > 0.05
    assert report == read_json(tmp_path / "scale.json")
    assert not (tmp_path / "checkpoint").exists()
