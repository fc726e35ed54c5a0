"""What is a weight, by the module that owns it or by its name alone."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers.pytorch_utils import Conv1D

from kappa_lib.weights import kinds


def reasons(model: nn.Module) -> dict[str, str]:
    return {name: why for name, (_, why) in kinds.of_model(model).items()}


def test_the_module_that_owns_a_parameter_decides():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts = 3
            self.up = nn.Parameter(torch.ones(3, 4, 5))
            self.up_bias = nn.Parameter(torch.ones(3, 4))

    model = nn.ModuleDict(
        {
            "table": nn.Embedding(8, 4),
            "c_attn": Conv1D(12, 4),
            "conv": nn.Conv1d(1, 3, 5),
            "depthwise": nn.Conv2d(6, 6, 7, groups=6),
            "experts": Experts(),
            "attention": nn.MultiheadAttention(4, 2),
            "lstm": nn.LSTM(4, 4),
        }
    )
    found = reasons(model)
    weights = {name for name, why in found.items() if not why}
    assert weights == {
        "c_attn.weight",
        "conv.weight",
        "experts.up",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert [name for name, (stack, _) in kinds.of_model(model).items() if stack] == ["experts.up"]
    assert found["table.weight"] == "an embedding"
    assert found["depthwise.weight"] == "a convolution in 6 groups"
    assert found["lstm.weight_ih_l0"].startswith("a parameter of LSTM")


def test_the_weight_that_a_module_computes_is_the_weight():
    linear = weight_norm(nn.Linear(5, 4, bias=False))
    assert [name for name, why in reasons(linear).items() if not why] == ["weight"]


STACK = "a stack"
BY_NAME = [
    ("model.layers.0.mlp.up_proj.weight", (8, 4), ""),
    ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 4), STACK),
    ("blk.0.ffn_gate_exps.weight", (4, 8, 4), STACK),
    ("model.layers.0.shared_mlp.input_linear.weight", (96, 32), ""),
    ("model.layers.0.attention.output.weight", (64, 64), ""),
    ("visual.resblocks.0.attn.in_proj_weight", (12, 4), ""),
    ("encoder.conv1.weight", (64, 80, 3), ""),
    ("vision.patch.weight", (8, 3, 14, 14), ""),
    ("model.layers.0.block_sparse_moe.input_linear.weight", (4, 96, 32), "cannot say"),
    ("model.layers.0.linear_attn.conv1d.weight", (64, 1, 4), "cannot say"),
    ("blk.0.ssm_conv1d.weight", (64, 4), "cannot say"),
    ("blk.0.shortconv.conv.weight", (64, 3), "cannot say"),
    ("blk.0.shortconv.in_proj.weight", (96, 32), ""),
    ("blk.0.ssm_norm.weight", (8, 64), "norm"),
    ("model.layers.0.self_attn.q_norm.weight", (4, 8), "norm"),
    ("transformer_blocks.0.norm1.linear.weight", (96, 32), ""),
    ("blk.0.time_mix_first.weight", (4, 8), "by its name"),
    ("blk.0.time_mix_r_k.weight", (4, 8), "by its name"),
    ("blk.0.time_mix_receptance.weight", (32, 32), ""),
    ("model.embed_tokens.weight", (64, 4), "embedding"),
    ("output.weight", (400, 64), "output layer"),
    ("lm_head.weight", (64, 4), "output layer"),
    ("gpt_neox.embed_in.weight", (400, 64), "embedding"),
    ("block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 8), "embedding"),
    ("model.norm.weight", (8,), "vector"),
    ("h.0.attn.bias", (1, 1, 8, 8), "no weight"),
    ("layers.0.mixer.A_log", (64, 16), "no weight"),
    ("layers.0.mlp.up_proj.weight_scale", (64, 1), "no weight"),
    ("layers.0.mlp.experts.down_proj_bias", (4, 8), "no weight"),
]


@pytest.mark.parametrize(("name", "shape", "said"), BY_NAME)
def test_a_name_alone_leaves_out_what_it_does_not_tell(name, shape, said):
    stack, why = kinds.by_name(name, shape)
    assert stack == (said == STACK)
    assert bool(why) == (said not in ("", STACK))
    assert said in (*why.split("\n"), "", STACK) or said in why


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.up_proj.weight", 12),
        ("albert_layer_groups.0.albert_layers.3.ffn.weight", 0),
        ("visual.transformer.resblocks.7.attn.in_proj_weight", 7),
        ("model.layers.3.mlp.experts.gate_up_proj[5]", 3),
        ("0.auto_model.encoder.layer.3.attention.self.query.weight", 3),  # sentence-transformers
        ("3.mlp.0.linear.weight", 3),
        ("projector.0.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_a_layer_is_a_number_with_a_module_behind_it(name, layer):
    assert kinds.layer_of(name) == layer


def test_names_that_differ_by_numbers_are_listed_as_one():
    names = ["h.0.a", "h.1.a", "b.weight", "h.1.e[0]", "h.1.e[1]"]
    assert kinds.patterns(names) == ["h.*.a (2)", "b.weight", "h.*.e[*] (2)"]
