import numpy as np
import pandas as pd
import pytest

from kappa_lib.figures import encoding as figures
from kappa_lib.figures.style import save

KINDS = ["q_proj", "v_proj"]


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    columns = ["kappa", "kappa_reversed", "deficit", "kl_redrawn", "bottom_power"]
    frame = pd.DataFrame(np.exp(rng.standard_normal((12, 5))), columns=columns)
    changes = {f"loss_{name}": rng.standard_normal(12) for name in ("surgery", "permuted")}
    return frame.assign(type=KINDS * 6, layer=np.repeat(range(6), 2), **changes)


def test_scatter_has_a_panel_a_type_and_says_its_interval(table, tmp_path):
    outcomes = {"deficit": "deficit", "kl_redrawn": "KL"}
    found = {(outcome, kind): (0.51, 0.12, 0.84) for outcome in outcomes for kind in KINDS}
    figure = figures.within_types(table, outcomes, found)
    assert len(figure.axes) == 2 * 2 + 1
    assert "+0.51 [+0.12, +0.84]" in figure.axes[0].get_title()
    assert [axis.get_yscale() for axis in figure.axes[:4]] == ["linear", "linear", "log", "log"]
    save(figure, tmp_path, "scatter")
    assert (tmp_path / "scatter.png").is_file()


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


def test_surgery_shows_both_sides(table):
    costs = pd.DataFrame(
        [
            {"scope": scope, "change": change, "loss": 0.1, "low": 0.0, "high": 0.3}
            for scope in (*KINDS, "all")
            for change in ("surgery", "surgery_elsewhere", "surgery_noise")
        ]
    )
    left, right = figures.surgery(table, costs).axes
    assert sum(len(line.get_xdata()) for line in left.lines) == 12
    assert [text.get_text() for text in right.get_yticklabels()] == [*KINDS, "all"]


def test_smallest_direction_and_anisotropy_show_every_tensor(table):
    (axis,) = figures.smallest_direction(table).axes
    shown = [line for line in axis.lines if line.get_label() in KINDS]
    assert sum(len(line.get_xdata()) for line in shown) == 12
    low, high = axis.get_ylim()
    assert low < table["loss_surgery"].min()
    assert high > 1.5 * table["loss_surgery"].max()
    panels = figures.anisotropy(table, {"surgery": "σ_k", "permuted": "permuted"}).axes
    assert [axis.get_title() for axis in panels] == KINDS
    assert all(len(axis.lines[0].get_xdata()) == 6 for axis in panels)
