import copy

import numpy as np
import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kappa_lib.spectra import gauge
from kappa_lib.spectra.invariant import invariant_kappa


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
