import numpy as np
import pandas as pd
import pytest

from kappa_lib.figures import encoding as figures

KINDS = ["q_proj", "v_proj"]


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    columns = ["kappa", "kappa_reversed", "deficit", "kl_redrawn", "bottom_power"]
    frame = pd.DataFrame(np.exp(rng.standard_normal((12, 5))), columns=columns)
    changes = {f"loss_{name}": rng.standard_normal(12) for name in ("surgery", "permuted")}
    return frame.assign(type=KINDS * 6, layer=np.repeat(range(6), 2), **changes)


def test_every_predictor_has_a_row_in_every_panel():
    rows = [
        {
            "predictor": name,
            "outcome": outcome,
            "within": 0.1,
            "low": 0.0,
            "high": 0.2,
            "p_holm": 0.5,
        }
        for name in ("kappa", "layer")
        for outcome in ("a", "b")
    ]
    figure = figures.predictors(pd.DataFrame(rows), {"a": "A", "b": "B"}, (0.25, 0.4))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["κ", "layer"]
    drawn = [line for line in figure.axes[1].lines if line.get_linestyle() in (":", "--")]
    assert sorted(line.get_xdata()[0] for line in drawn) == [-0.4, -0.25, 0.25, 0.4]
    (legend,) = figure.legends
    below, above = (text.get_text() for text in legend.get_texts())
    assert "within ±0.25" in below
    assert "beyond ±0.4" in above
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"]


def spans(axis):
    """The lines of intervals: (place, low, high)."""
    found = [line for line in axis.lines if line.get_marker() == "None"]
    rows = [(line.get_ydata(), line.get_xdata()) for line in found]
    return [(y[0], *x) for y, x in rows if y[0] == y[1] and x[0] != x[1]]


def test_every_type_has_its_interval_in_every_panel():
    outcomes = {"deficit": "deficit", "kl_redrawn": "KL"}
    found = {(o, kind): (0.5, 0.1 + i, 0.8 + i) for o in outcomes for i, kind in enumerate(KINDS)}
    figure = figures.within_types(KINDS, outcomes, found)
    assert [axis.get_title() for axis in figure.axes] == list(outcomes.values())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == KINDS
    for axis in figure.axes:
        assert spans(axis) == [(0, 0.1, 0.8), (1, 1.1, 1.8)]


def test_surgery_shows_each_change_of_each_scope():
    costs = pd.DataFrame(
        [
            {"scope": scope, "change": change, "loss": 0.1 + i, "low": i, "high": 0.3 + i}
            for scope in (*KINDS, "all")
            for i, change in enumerate(("surgery", "surgery_elsewhere", "surgery_noise"))
        ]
    )
    (axis,) = figures.surgery(costs).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == [*KINDS, "all"]
    assert sorted(spans(axis))[:3] == [(-0.25, 0, 0.3), (0, 1, 1.3), (0.25, 2, 2.3)]
    assert len(spans(axis)) == 9


def test_smallest_direction_shows_every_tensor(table):
    (axis,) = figures.smallest_direction(table).axes
    shown = [line for line in axis.lines if line.get_label() in KINDS]
    assert sum(len(line.get_xdata()) for line in shown) == 12
    low, high = axis.get_ylim()
    assert low < table["loss_surgery"].min() < table["loss_surgery"].max() < high


def test_anisotropy_shows_median_and_most_tensors(table):
    (axis,) = figures.anisotropy(table, {"surgery": "σ_k", "permuted": "permuted"}).axes
    expected = table[table["type"] == "v_proj"]["loss_permuted"].quantile([0.1, 0.9])
    assert max(spans(axis)) == pytest.approx((1.125, *expected))
    assert len(spans(axis)) == 4
