"""Pictures that are kept in the repository stay small, and hold their dots as images."""

import numpy as np
import pandas as pd
import pytest

from kappa_lib import paths
from kappa_lib.figures.kappa import dots
from kappa_lib.figures.style import new_figure, save

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
