import pandas as pd
import pytest
import torch
from tiny import llama
from torch.nn import functional

from kappa_lib.encoding.damage import Reference, noise_cost
from tools.tensors import gradients

NAMES = [
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
]


def test_noise_costs_what_a_whole_pass_with_it_says(llm, windows, batches):
    found = noise_cost(Reference(llm, batches), NAMES[2], size=1.0, draws=1, seed=5)
    other = llama()
    weight = other.get_parameter(NAMES[2])
    noise = torch.randn(
        weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    weight.data += (weight.double().norm() * noise / noise.norm()).float()
    with torch.no_grad():
        before, after = (
            functional.log_softmax(model(windows[:, :-1]).logits.double(), -1)
            for model in (llm, other)
        )
    kl = (before.exp() * (before - after)).sum(-1).mean().item()
    assert found == pytest.approx(kl, abs=3e-7)


def test_twice_the_noise_costs_four_times_as_much_and_the_model_is_left_alone(llm, batches):
    kept = {name: llm.get_parameter(name).clone() for name in NAMES}
    reference = Reference(llm, batches)
    for name in NAMES:
        small, large = (noise_cost(reference, name, size=s, draws=3) for s in (0.15, 0.3))
        assert small > 0
        assert large / small == pytest.approx(4, rel=0.15)
    assert all(torch.equal(llm.get_parameter(name), kept[name]) for name in NAMES)


def test_the_gradient_is_that_of_the_windows_mean_loss(llm, windows, batches):
    found = pd.DataFrame(gradients(llm, NAMES, batches)).set_index("tensor")
    model = llama()
    for name in NAMES:
        weight, rows = model.get_parameter(name).requires_grad_(), []
        for window in windows:
            loss = model(window[None, :-1], labels=window[None, :-1]).logits[0]
            loss = functional.cross_entropy(loss, window[1:])
            rows.append(torch.autograd.grad(loss, weight)[0].flatten().double())
        single = torch.stack(rows)
        size = single.mean(dim=0).norm() * weight.detach().double().norm()
        assert found.loc[name, "gradient"] == pytest.approx(size.item(), rel=1e-5)
    assert not any(parameter.requires_grad for parameter in llm.parameters())
