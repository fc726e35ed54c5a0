import copy

import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from kappa_lib.encoding import predictors
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
