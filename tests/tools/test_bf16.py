"""Products of bfloat16 in fp32: exact but for one rounding, also in a model and its gradients."""

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tools.bf16 import Widened


def test_a_product_is_that_in_float64_rounded_once():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator).bfloat16() for _ in range(2))
    with Widened():
        found = a @ b, functional.linear(a, b, b[0])
    truth = a.double() @ b.double(), functional.linear(a.double(), b.double(), b[0].double())
    for here, there in zip(found, truth, strict=True):
        assert here.dtype == torch.bfloat16
        # Half a unit in the last of eight places, and what fp32 rounded before.
        near = there.abs() * 2**-8 * (1 + 2**-6)
        assert ((here.double() - there).abs() <= near + 1e-4).all()


def test_a_model_and_its_gradients_are_as_torch_s_own_within_rounding():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=50, num_attention_heads=4, num_key_value_heads=2, **sizes)
    model = LlamaForCausalLM(config).bfloat16()
    ids = torch.arange(24).reshape(2, 12)

    def gradient(at):
        loss = model(input_ids=ids, labels=ids).loss
        return loss.item(), *torch.autograd.grad(loss, at)

    first, last = model.model.layers
    weights = [first.self_attn.q_proj.weight, last.mlp.up_proj.weight]
    own = gradient(weights)
    with Widened():
        found = gradient(weights)
    assert abs(own[0] - found[0]) < 0.01 * own[0]
    for here, there in zip(found[1:], own[1:], strict=True):
        assert here.dtype == torch.bfloat16
        assert (here - there).norm() < 0.05 * there.norm()


def test_what_is_in_fp32_keeps_its_bits():
    a = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with Widened():
        found = a @ a
    assert torch.equal(found, a @ a)
