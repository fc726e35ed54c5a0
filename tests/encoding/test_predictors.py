import copy
import math

import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from kappa_lib.encoding import predictors
from kappa_lib.encoding.damage import Factors
from kappa_lib.encoding.information import Moments
from kappa_lib.encoding.predictors import invariant_kappa
from kappa_lib.spectra import gauge


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_exponent_of_a_power_law_is_found(alpha):
    eigenvalues = stats.pareto.rvs(alpha - 1, size=3000, random_state=1)
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    assert predictors.power_law_tail(s)[0] == pytest.approx(alpha, rel=0.1)


def test_exponent_is_scipys_for_some_start_of_the_tail_and_fits_best():
    s = np.sort(
        np.linalg.svd(np.random.default_rng(0).standard_normal((60, 200)), compute_uv=False)
    )[::-1]
    eigenvalues = np.sort(s**2)
    fits = []
    for start in eigenvalues[:-1]:
        tail = eigenvalues[eigenvalues >= start]
        shape = stats.pareto.fit(tail, floc=0, fscale=start)[0]
        fitted = stats.pareto.cdf(tail, shape, scale=start)
        fits.append((np.abs(fitted - np.arange(len(tail)) / len(tail)).max(), shape + 1))
    assert predictors.power_law_tail(s)[0] == pytest.approx(min(fits)[1], rel=1e-6)
    assert predictors.power_law_tail(7 * s)[0] == pytest.approx(min(fits)[1], rel=1e-6)


@pytest.mark.parametrize("s", [np.ones(50), np.arange(10, 0, -1.0)], ids=["flat", "short"])
def test_no_tail_has_no_exponent(s):
    assert np.isnan(predictors.power_law_tail(s)[0])


def test_the_trace_log_gap_of_a_power_law_by_its_two_starts():
    # λ of a Pareto law from 1 on: the fitted tail starts near the bottom, and the sum of logs
    # vanishes where the scaled values' geometric mean is one.
    n, alpha = 400, 3.0
    eigenvalues = (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))
    s = np.sqrt(np.sort(eigenvalues)[::-1])
    scaled = s**2 / np.mean(s**2)
    brute = max(i for i in range(n) if math.fsum(np.log(scaled[: i + 1])) >= 0)
    found = predictors.trace_log_gap(s, predictors.power_law_tail(s)[1])
    scaled_start = predictors.power_law_tail(100 * s)[1]
    assert found == pytest.approx(predictors.trace_log_gap(100 * s, scaled_start))
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


@pytest.fixture
def llm():
    torch.manual_seed(1)
    made = LlamaForCausalLM(LlamaConfig(**tiny.TEXT)).eval()
    with torch.no_grad():
        for layer in made.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
    return made


def cond(matrix, rank):
    singular = np.linalg.svd(matrix, compute_uv=False)
    return singular[0] / singular[rank - 1]


def test_products_have_the_kappa_of_numpy(llm):
    found, width, group = invariant_kappa(llm), 8, 2
    layer = llm.model.layers[1]
    gain = layer.input_layernorm.weight.detach().double().numpy()
    q, k, v, o = (
        getattr(layer.self_attn, f"{x}_proj").weight.detach().double().numpy() for x in "qkvo"
    )
    qk, ov = [], []
    for head in range(4):
        own, shared = (slice(h * width, (h + 1) * width) for h in (head, head // group))
        qk.append(cond((q[own] * gain).T @ (k[shared] * gain), width))
        ov.append(cond(o[:, own] @ (v[shared] * gain), width))
    for names, values in (("qk", qk), ("vo", ov)):
        for x in names:
            name = f"model.layers.1.self_attn.{x}_proj.weight"
            assert found[name] == pytest.approx(np.exp(np.log(values).mean()), rel=1e-8)


@pytest.mark.parametrize("dose", [2, 5])
def test_no_gauge_changes_it(llm, dose):
    other = copy.deepcopy(llm)
    gauge.regauge(other, seed=3, dose=dose)
    first, second = invariant_kappa(llm), invariant_kappa(other)
    assert len(first) == 2 * 7
    products = ~first.index.str.contains("up_proj|down_proj")
    np.testing.assert_allclose(first[products], second[products], rtol=1e-6)
    np.testing.assert_allclose(first[~products], second[~products], rtol=0.1)
