import math

import numpy as np
import pytest
import torch
from tiny import llama

from kappa_lib.encoding import predictors
from kappa_lib.encoding.covariance import Moments
from kappa_lib.encoding.damage import Factors


@pytest.fixture(scope="module")
def llm():
    return llama()


def test_the_table_has_every_tensor_of_the_layers_and_the_predictors_of_its_columns(llm):
    table = predictors.table_of(llm)
    assert len(table) == 14
    assert table["effective_rank_share"].between(0, 1).all()
    assert (table["volume_loss"] > 0).all()


def test_the_trace_log_gap_of_a_power_law_by_its_two_starts():
    # λ of a Pareto law from 1 on: the fitted tail starts near the bottom, and the sum of logs
    # vanishes where the scaled values' geometric mean is one.
    n, alpha = 400, 3.0
    eigenvalues = (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    scaled = s**2 / np.mean(s**2)
    brute = max(i for i in range(n) if math.fsum(np.log(scaled[: i + 1])) >= 0)
    found = predictors.trace_log_gap(s)
    assert found == pytest.approx(predictors.trace_log_gap(100 * s))
    start = np.exp(found) * scaled[brute]
    assert np.abs(start / scaled - 1).min() < 1e-9
    assert found < 0


@pytest.mark.parametrize("kind", ["q_proj", "v_proj", "o_proj", "out_proj"])
def test_kappa_of_heads_is_that_of_their_rows_or_columns(kind):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    dim = 1 if kind.endswith(("o_proj", "out_proj")) else 0
    conds = [float(torch.linalg.cond(part)) for part in weight.split(4, dim=dim)]
    found = predictors.head_kappa(weight, kind, 4)
    assert found == pytest.approx(math.prod(conds) ** (1 / 3))
    whole = predictors.head_kappa(weight, "up_proj", 4)
    assert whole == pytest.approx(float(torch.linalg.cond(weight)))


def test_input_predictors_find_the_smallest_direction_in_the_input():
    # W's smallest direction is the third axis, where the input has nearly all its power.
    weight = torch.diag(torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64))
    inputs = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 10], [0, 0, -10]], dtype=torch.float64)
    moments = Moments(3)
    moments.add(inputs)
    found = predictors.input_predictors(Factors.of(weight), moments)
    assert found["bottom_power"] == pytest.approx(200)
    assert found["bottom_overlap"] == pytest.approx(1)
    assert found["dominant_share"] == pytest.approx(200 / 202)
