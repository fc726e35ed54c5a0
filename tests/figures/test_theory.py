"""The theory figures show the data that they were given, once, and with labelled axes."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from kappa_lib.evidence.verdicts import Verdict
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
        ellipse = axis.lines[-1].get_xydata()
        assert np.ptp(ellipse, axis=0) == pytest.approx(4 * np.array(scale), rel=0.05)


def test_simplex_ends_its_paths_at_the_star():
    path = np.sqrt([[3.0, 0.5, 0.5], [2, 1, 1], [4 / 3] * 3])
    figure = theory.simplex([path], energy=4.0)
    lines = {line.get_marker(): line.get_xydata() for line in figure.axes[0].lines}
    assert lines["None"][-1] == pytest.approx(lines["*"][0])
    assert labelled(figure)


def test_verdict_bars_add_up_and_know_every_verdict():
    assert set(training.SHADES) == set(Verdict) - {Verdict.LOWER, Verdict.HIGHER}
    figure = training.verdicts({"a": {"holds": 3, "fails": 2}, "b": {"not measured": 1}})
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sorted(widths) == [0, 0, 0, 1, 2, 3]
    assert labelled(figure)
