"""Which matrices of real architectures the arms and the module types take, by their own names."""

import re

import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSpeechSeq2Seq

from kappa_lib.errors import InputError
from kappa_lib.spectra.kappa_table import layer_of, types_of
from kappa_lib.spectra.scan import to_measure
from kappa_lib.spectra.selection import select
from kappa_lib.weights.models import open_checkpoint

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
SHARED = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
SPEECH = {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()
} | {"d_model": 32, "num_mel_bins": 8, "max_source_positions": 16, "decoder_start_token_id": 1}
DELTA = {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")} | {
    f"linear_{kind}_head_dim": 8 for kind in ("key", "value")
}
HYBRID = {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
QKVO = {f"self_attn.{kind}_proj" for kind in "qkvo"}
GATED = {f"mlp.{kind}_proj" for kind in ("gate", "up", "down")}
EXPERTS = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
EXPERT = {f"mlp.shared_expert.{kind}_proj" for kind in ("gate", "up", "down")}
OUT = {f"self_attn.{kind}_proj" for kind in ("q", "k", "v", "out")}
GATE = {"mlp.shared_expert_gate"}
# Architecture → configuration, its attention, its MLP, and what is neither.
REAL = {
    "gpt2": (GPT2, {"attn.c_attn", "attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}, set()),
    "whisper": (
        SPEECH,
        OUT | {name.replace("self", "encoder") for name in OUT},
        {"fc1", "fc2"},
        set(),
    ),
    "opt": ({"ffn_dim": 48}, OUT, {"fc1", "fc2"}, set()),
    "phi": (
        {},
        QKVO - {"self_attn.o_proj"} | {"self_attn.dense"},
        {"mlp.fc1", "mlp.fc2"},
        set(),
    ),
    "gpt_neox": (
        {},
        {"attention.query_key_value", "attention.dense"},
        {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
        set(),
    ),
    "qwen3_next": (
        SHARED | DELTA | HYBRID | {"head_dim": 8},
        QKVO | {f"linear_attn.{kind}" for kind in ("in_proj_qkvz", "in_proj_ba", "out_proj")},
        EXPERTS | EXPERT,
        GATE,
    ),
    "qwen2_moe": (SHARED, QKVO, EXPERTS | EXPERT, GATE),
    "mixtral": ({"num_local_experts": 4}, QKVO, EXPERTS, set()),
    "gemma3_text": ({"head_dim": 8}, QKVO, GATED, set()),
    "llama": ({}, QKVO, GATED, set()),
    "recurrent_gemma": (
        {"head_dim": 8, "lru_width": 32},
        {name.replace("self_attn", "temporal_block") for name in QKVO},
        {name.replace("mlp", "mlp_block") for name in GATED},
        {f"temporal_block.linear_{kind}" for kind in ("x", "y", "out")},
    ),
    "nemotron_h": (
        {"head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2},
        {name.replace("self_attn", "mixer") for name in QKVO},
        {
            f"mixer.{of}{kind}_proj"
            for of in ("", "experts.", "shared_experts.")
            for kind in ("up", "down")
        },
        {"mixer.in_proj", "mixer.out_proj"},
    ),
    "falcon_h1": (
        {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
        QKVO,
        {name.replace("mlp", "feed_forward") for name in GATED},
        {"mamba.in_proj", "mamba.out_proj"},
    ),
}


def table_of(shapes: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """A κ table of named matrices, each with the κ of its place."""
    kinds = types_of(shapes)
    rows = [(name, kinds[name], layer_of(name), m, n) for name, (m, n) in shapes.items()]
    table = pd.DataFrame(rows, columns=["tensor", "type", "layer", "rows", "cols"])
    return table.astype({"layer": "Int64"}).assign(kappa=range(1, len(table) + 1))


@pytest.fixture(scope="module")
def real(request):
    """κ table of a model of that architecture, made from its configuration without weights."""
    settings = REAL[request.param][0]
    config = AutoConfig.for_model(request.param, **SMALL | settings)
    kind = AutoModelForSpeechSeq2Seq if request.param == "whisper" else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    infos = to_measure(open_checkpoint(model))
    return table_of({name: info.shape[-2:] for info in infos for name in info.matrices})


each = pytest.mark.parametrize("real", REAL, indirect=True, scope="module")


def inside(names) -> set[str]:
    """Names inside a layer, without number of the layer and of an expert."""
    return {re.sub(r"^.*?\.\d+\.|\.weight$|\[\d+\]$", "", name) for name in names}


def taken(table: pd.DataFrame, arm: str) -> set[str]:
    return set(select(table, arm, 1).tensors)


@each
def test_attention_and_mlp_share_all_but_routers_and_other_mixers(real, request):
    _, attention, mlp, neither = REAL[request.node.callspec.params["real"]]
    found = {arm: taken(real, arm) for arm in ("attention", "mlp")}
    assert inside(found["attention"]) == attention
    assert inside(found["mlp"]) == mlp
    rest = set(real.loc[real["layer"].notna(), "tensor"]) - found["attention"] - found["mlp"]
    assert inside(rest) == neither


@each
def test_a_module_type_is_of_one_module_and_one_shape(real):
    layers = real.dropna(subset=["layer"])
    layers = layers.assign(module=[inside([name]).pop() for name in layers["tensor"]])
    for kind, rows in layers.groupby("type"):
        assert rows["module"].nunique() == 1, kind
        assert len(rows[["rows", "cols"]].drop_duplicates()) == 1, kind
        assert rows["module"].iloc[0].endswith(kind.rpartition("layers.")[2])


STORED = {
    "attention": ["blk.0.attn_qkv", "blk.0.attn_output", "block.0.layer.0.SelfAttention.k"],
    "mlp": [
        "blk.0.ffn_gate",
        "blk.0.ffn_gate_exps",
        "block.0.layer.1.DenseReluDense.wi",
        "layers.0.block_sparse_moe.experts.0.w1",
    ],
    "": [
        "blk.0.ffn_gate_inp",
        "layers.0.block_sparse_moe.gate",
        "layers.0.attn.experts.router.layer",
        "layers.0.mixer.in_proj",
        "layers.0.conv.out_proj",
    ],
}


def test_names_as_files_have_them():
    """Of GGUF, T5 and Mixtral, none of which are called as a torch module of Llama's is."""
    names = [f"{name}.weight" for of in STORED.values() for name in of]
    table = table_of(dict.fromkeys(names, (4, 4)))
    for arm in ("attention", "mlp"):
        assert taken(table, arm) == {f"{name}.weight" for name in STORED[arm]}


def test_values_and_keys_by_other_names():
    names = {
        kind: {
            f"blk.0.attn_{kind}.weight",
            f"block.0.layer.0.SelfAttention.{kind}.weight",
            f"model.layers.0.encoder_attn.{kind}_proj.weight",
        }
        for kind in "qkv"
    }
    table = table_of(dict.fromkeys(sorted(set().union(*names.values())), (4, 4)))
    assert taken(table, "value") == names["v"]
    assert taken(table, "key") == names["k"]
    with pytest.raises(InputError, match="no tensor of this model fits"):
        select(table_of({"h.0.attn.c_attn.weight": (4, 12)}), "value", 1)
