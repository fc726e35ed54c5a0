"""Pictures that are kept in the repository stay small, and hold their dots as images."""

from itertools import pairwise

import numpy as np
import pytest

from kappa_lib import paths
from kappa_lib.figures.style import logarithmic, new_figure, save, signed_root, strips

LARGEST = 300_000  # bytes
SVGS = sorted(paths.REFERENCE.rglob("*.svg"))


@pytest.mark.parametrize("path", SVGS, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_committed_pictures_are_small(path):
    assert path.stat().st_size < LARGEST


def test_a_dense_scatter_is_small_and_the_same_again(tmp_path):
    values = np.random.default_rng(0).standard_normal(20_000)
    for name in ("first", "second"):
        figure, axis = new_figure(figsize=(5, 4))
        strips(axis, {"q_proj": values, "v_proj": values[::-1]})
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
    assert axis.get_xticks() == pytest.approx([-0.25, -0.05, -0.01, 0, 0.01, 0.05, 0.25, 1])


@pytest.mark.parametrize(
    ("width", "expected"),
    [(6.4, ["−0.25", "−0.05", "0", "+0.05", "+0.25", "+1"]), (2, ["−0.25", "0", "+1"])],
)
def test_labels_of_square_roots_do_not_overlap(width, expected):
    figure, axis = new_figure(figsize=(width, 4))
    axis.plot([-0.2, 4.0], [0, 1])
    signed_root(axis, 0.01)
    figure.draw_without_rendering()
    labels = [label for label in axis.get_xticklabels() if label.get_text()]
    assert [label.get_text() for label in labels] == expected
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
