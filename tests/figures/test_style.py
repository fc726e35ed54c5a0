"""Pictures that are kept in the repository stay small, and hold their dots as images."""

import numpy as np
import pandas as pd
import pytest

from kappa_lib import paths
from kappa_lib.figures.kappa import dots
from kappa_lib.figures.style import logarithmic, new_figure, save, signed_root

LARGEST = 300_000  # bytes
SVGS = sorted(paths.REFERENCE.rglob("*.svg"))


@pytest.mark.parametrize("path", SVGS, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_committed_pictures_are_small(path):
    assert path.stat().st_size < LARGEST


def test_a_dense_scatter_is_small_and_the_same_again(tmp_path):
    values = pd.Series(np.random.default_rng(0).standard_normal(20_000))
    table = pd.DataFrame({"type": ["q_proj", "v_proj"] * 10_000, "layer": 0})
    for name in ("first", "second"):
        figure, axis = new_figure(figsize=(5, 4))
        dots(axis, table, values, values[::-1])
        save(figure, tmp_path, name)
    first, second = ((tmp_path / f"{name}.svg").read_bytes() for name in ("first", "second"))
    assert first == second
    assert len(first) < LARGEST


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((2, 9), "3"), ((4, 300), "50"), ((0.5, 40_000), "10,000"), ((10, 1e7), "10^{5}")],
)
def test_a_logarithmic_axis_has_numbers_as_one_says_them(ends, expected):
    figure, axis = new_figure()
    axis.plot(ends, ends)
    logarithmic(axis, "x")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert any(expected in label for label in labels)
    assert not any("times" in label or "×" in label for label in labels)


def test_square_roots_keep_zero_and_the_order_of_differences():
    _, axis = new_figure()
    axis.plot([-0.2, 4.0], [0, 1])
    signed_root(axis, 0.01)
    to_axes = axis.transData.transform
    places = [to_axes((x, 0))[0] for x in (-0.04, 0, 0.01, 0.04, 0.16)]
    steps = np.diff(places)
    assert steps == pytest.approx(steps[1] * np.array([2, 1, 1, 2]))
    told = [label.get_text() for label in axis.get_xticklabels()]
    assert [text for text in told if text] == ["−0.25", "0", "+0.25", "+1"]
    assert axis.get_xticks() == pytest.approx([-0.25, -0.05, -0.01, 0, 0.01, 0.05, 0.25, 1])
