"""The theory figures show the data that they were given, once, and with labelled axes."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import Ellipse

from kappa_lib.evidence.verdicts import NOT_MEASURED, VERDICTS
from kappa_lib.figures import theory, training


@pytest.fixture(autouse=True)
def _nothing_stays_open():
    yield
    assert plt.get_fignums() == []


def labelled(figure):
    figure.draw_without_rendering()
    return all(axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes if axis.axison)


def test_ellipses_have_the_half_axes_of_their_clouds():
    rng = np.random.default_rng(0)
    clouds = [rng.standard_normal((4000, 2)) * scale for scale in ([1, 1], [3, 0.5])]
    figure = theory.covariance_ellipses([1, 6], clouds)
    assert labelled(figure)
    for axis, scale in zip(figure.axes, ([1, 1], [3, 0.5]), strict=True):
        (ellipse,) = [patch for patch in axis.patches if isinstance(patch, Ellipse)]
        assert sorted([ellipse.width, ellipse.height]) == pytest.approx(
            sorted(4 * np.array(scale)), rel=0.05
        )


def test_simplex_ends_its_paths_at_the_star():
    path = np.sqrt([[3.0, 0.5, 0.5], [2, 1, 1], [4 / 3] * 3])
    figure = theory.simplex([path], energy=4.0)
    lines = {line.get_marker(): line.get_xydata() for line in figure.axes[0].lines}
    assert lines["None"][-1] == pytest.approx(lines["*"][0])
    assert labelled(figure)


def test_entropy_scatter_keeps_every_unit_and_the_maximum():
    figure = theory.entropy_at_fixed_norm(np.array([2.0, 9.0]), np.array([1.0, 0.5]), 1.5)
    dots, line, _ = figure.axes[0].lines
    assert dots.get_xydata() == pytest.approx(np.array([[2, 1], [9, 0.5]]))
    assert set(line.get_ydata()) == {1.5}
    assert labelled(figure)


def test_bands_draw_both_edges():
    kappas, low, high = np.array([1.0, 10, 100]), np.array([0.0, -5, -9]), np.array([0.0, -1, -2])
    panels = {name: (low, high, np.array([-3.0])) for name in ("V", "I")}
    figure = theory.bands(kappas, np.array([10.0]), panels)
    assert [axis.get_title() for axis in figure.axes] == ["V", "I"]
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert low.tolist() in drawn
    assert high.tolist() in drawn
    assert labelled(figure)


def test_activations_put_the_estimates_at_every_second_mean():
    means, estimate = np.linspace(-1, 1, 5), np.array([-1.0, -0.5, -0.1])
    figure = theory.activations(
        np.linspace(-2, 2, 9),
        {"tanh": np.ones(9), "ReLU": np.zeros(9)},
        means,
        {"tanh": np.linspace(-1, 0, 5)},
        {"tanh": estimate},
    )
    dots = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in dots] == [
        np.column_stack([means[::2], estimate]).tolist()
    ]
    assert labelled(figure)


def test_information_has_a_panel_for_each_input():
    noises = np.array([0.1, 1.0])
    changes = {"GELU": np.array([-0.2, -0.1]), "ReLU": np.zeros(2)}
    panels = {name: (noises, changes) for name in ("a", "b")}
    figure = theory.information_changes(panels)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    assert labelled(figure)


def test_an_activation_has_one_colour_in_both_figures():
    x = np.linspace(0.1, 1, 3)
    names = ["tanh", "ReLU", "GELU", "SiLU"]
    first = theory.activations(x, {name: x for name in names}, x, {}, {})
    second = theory.information_changes({"a": (x, {name: x for name in reversed(names)})})
    found = [
        {line.get_label(): line.get_color() for line in figure.axes[0].lines}
        for figure in (first, second)
    ]
    assert [found[0][name] for name in names] == [found[1][name] for name in names]


def test_null_marks_every_shape():
    figure = theory.null_by_shape(
        np.array([0.2, 0.6]),
        {"null": np.array([2.6, 7.9])},
        {0.4: np.array([4.0, 4.4])},
        {"k, v": (0.25, 3.0), "q, o": (1.0, 15_000.0)},
    )
    marks = [
        line.get_xydata()[0].tolist() for line in figure.axes[0].lines if len(line.get_xdata()) == 1
    ]
    assert marks == [[0.25, 3.0], [1.0, 15_000.0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["k, v", "q, o"]
    assert labelled(figure)


def test_storage_shows_the_median_over_seeds():
    kappas = np.array([10.0, 100.0])
    reads = {"bfloat16": np.array([[10.0, 90], [11, 130], [12, 200]])}
    figure = theory.rounded_spectra({"exact": np.array([2.0, 1.0])}, kappas, reads, 2)
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([11, 130])
    assert labelled(figure)


def test_verdict_bars_add_up_and_know_every_verdict():
    assert set(training.SHADES) == {*VERDICTS, NOT_MEASURED}
    figure = training.verdicts({"a": {"holds": 3, "fails": 2}, "b": {"not measured": 1}})
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sorted(widths) == [0, 0, 0, 1, 2, 3]
    assert labelled(figure)
