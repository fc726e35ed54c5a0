"""Blocked products against plain ones."""

import numpy as np
import pytest
import torch

from kappa_lib.spectra import gram
from kappa_lib.spectra.gram import GramOperator


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(gram, "BLOCK_NUMBERS", 100)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("side_by_side", [2048, 1])
@pytest.mark.parametrize("shape", [(57, 13), (13, 57), (20, 20)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_products_over_blocks_equal_whole_products(shape, dtype, side_by_side, monkeypatch):
    monkeypatch.setattr(gram, "SIDE_BY_SIDE", side_by_side)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    operator = GramOperator(weight)
    plain = weight.double().numpy()
    plain = plain if shape[0] >= shape[1] else plain.T
    lower = operator.gram.tril().numpy()
    np.testing.assert_allclose(lower, np.tril(plain.T @ plain), rtol=1e-13, atol=1e-12)
    right, left = (torch.eye(n, dtype=torch.float64)[:, :3] for n in (operator.k, operator.rows))
    np.testing.assert_allclose(operator.apply(right), plain[:, :3], rtol=1e-15)
    np.testing.assert_allclose(operator.apply_transposed(left), plain.T[:, :3], rtol=1e-15)


@pytest.mark.parametrize("length", [1, 10, 1000, 100_000])
def test_error_of_an_inner_product_is_below_its_bound(length):
    rng = np.random.default_rng(length)
    x, y = rng.integers(-9, 10, length) / 3, rng.standard_normal(length)
    exact = sum(
        int(a * 2**60) * int(b * 2**60) for a, b in zip(x.tolist(), y.tolist(), strict=True)
    )
    computed = float(np.add.accumulate(x * y)[-1])
    error = abs(computed - exact / 2**120)
    assert error <= gram.product_error(length) * np.abs(x * y).sum()
