"""The figures show what they are given, told from their artists."""

import numpy as np
import pandas as pd
import pytest

from kappa_lib.figures import kappa as figures
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.selection import select


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    drawn = kappa_table.null_table(kappa_table.LLAMA_8B, 4)
    excess = rng.uniform(1, 3, len(drawn))
    return drawn.assign(kappa=drawn["kappa_mp"] * excess, kappa_excess=excess)


def test_heat_map_has_a_cell_for_each_matrix(table):
    image = figures.heat_map(table).axes[0].images[0].get_array()
    assert image.shape == (7, 4)
    first = table[(table["type"] == "q_proj") & (table["layer"] == 0)]["kappa"].item()
    assert image[0, 0] == first


def test_compositions_add_up(table):
    chosen = select(table, "selected", 10)
    figure = figures.compositions({"selected": kappa_table.composition(table, chosen.tensors)})
    widths = [sum(bar.get_width() for bar in axis.patches) for axis in figure.axes]
    assert widths == pytest.approx([10, chosen.parameters / 1e6])


def test_selection_map_marks_every_tensor(table):
    arms = {arm: select(table, arm, 10).tensors for arm in ("selected", "inverse")}
    axes = figures.selection_map(table, arms).axes
    assert [len(axis.collections[0].get_offsets()) for axis in axes] == [10, 10]


def test_correlations_are_written_in_their_cells(table):
    matrix = table[["kappa", "kappa_mp", "kappa_excess"]].corr("spearman")
    axis = figures.correlations(matrix, matrix).axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert texts == [f"{value:.2f}" for value in matrix.to_numpy().ravel()]


def test_a_row_against_the_null_has_a_dot_per_matrix_and_its_shape_s_spread(table):
    axis = figures.against_null(table).axes[0]
    kinds = kappa_table.types(table)
    assert [label.get_text() for label in axis.get_yticklabels()] == kinds
    dots, bands = axis.lines[: len(kinds)], axis.collections
    for kind, row, band in zip(kinds, dots, bands, strict=True):
        own = table[table["type"] == kind]
        assert list(row.get_xdata()) == list(own["kappa_excess"])
        ends = band.get_paths()[0].vertices[:, 0]
        assert ends.min() < 1 < ends.max()
        # Of square matrices κ spreads over more than an order of magnitude (Edelman's law).
        square = own["rows"].iloc[0] == own["cols"].iloc[0]
        assert (ends.max() > 10 * ends.min()) == square


def spans(axis):
    """The lines of intervals: (place, low, high)."""
    found = [line for line in axis.lines if line.get_marker() == "None"]
    rows = [(line.get_ydata(), line.get_xdata()) for line in found]
    return [(y[0], *x) for y, x in rows if y[0] == y[1] and x[0] != x[1]]


def test_every_predictor_has_its_interval_in_every_panel():
    rows = [
        {"predictor": name, "outcome": outcome, "within": 0.1 + i, "low": i, "high": 0.2 + i}
        for i, name in enumerate(("kappa", "layer"))
        for outcome in ("a", "b")
    ]
    tested = pd.DataFrame(rows).assign(p_holm=0.5)
    figure = figures.rank_correlations(tested, {"a": "A", "b": "B"}, (0.25, 0.4))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["κ", "layer"]
    drawn = [line for line in figure.axes[1].lines if line.get_linestyle() in (":", "--")]
    assert sorted(line.get_xdata()[0] for line in drawn) == [-0.4, -0.25, 0.25, 0.4]
    (legend,) = figure.legends
    below, above = (text.get_text() for text in legend.get_texts())
    assert "within ±0.25" in below
    assert "beyond ±0.4" in above
    plain = figures.rank_correlations(pd.DataFrame(rows), {"a": "A", "b": "B"})
    assert not plain.legends
    for dots, colour in ((figure, "white"), (plain, figures.COLOURS[0])):
        assert [axis.get_title() for axis in dots.axes] == ["A", "B"]
        for axis in dots.axes:
            assert spans(axis) == [(0, 0, 0.2), (1, 1, 1.2)]
            dot = next(line for line in axis.lines if line.get_marker() == "o")
            assert dot.get_markerfacecolor() == colour


def test_every_change_has_its_costs_in_every_row():
    names = ["q_proj", "v_proj", "all"]
    frames = [[[0.1 + i, i, 0.3 + i]] * 3 for i in range(3)]
    changes = {f"change {i}": pd.DataFrame(rows, names) for i, rows in enumerate(frames)}
    (axis,) = figures.costs(changes).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == names
    assert sorted(spans(axis))[:3] == [(-0.25, 0, 0.3), (0, 1, 1.3), (0.25, 2, 2.3)]
    assert len(spans(axis)) == 9


def test_the_gauges_fill_what_each_selects(table):
    chosen = [set(select(table, arm, 10).tensors) for arm in ("selected", "inverse")]
    for axis in figures.two_gauges(table, table, chosen).axes:
        filled = [line for line in axis.lines if line.get_markerfacecolor() != "none"]
        assert sum(len(line.get_xdata()) for line in filled) == 10
        assert sum(len(line.get_xdata()) for line in axis.lines) == len(table)
