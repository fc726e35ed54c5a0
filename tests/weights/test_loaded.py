"""A checkpoint's tensors as a model uses them, held to what transformers' own loading makes."""

import json
import sys
from dataclasses import replace

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from kappa_lib.errors import CheckpointError
from kappa_lib.spectra.scan import ScanError, scan
from kappa_lib.weights.loaded import as_used
from kappa_lib.weights.models import open_checkpoint

MOE = {**tiny.TEXT, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
STATE = {"vocab_size": 64, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
# Class → settings: names kept, renamed, merged into stacks, transposed, tied, parametrised.
MODELS = {
    "LlamaForCausalLM": tiny.TEXT,
    "GPT2LMHeadModel": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "T5ForConditionalGeneration": {
        **{"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2},
        "num_heads": 4,
    },
    "ViTForImageClassification": tiny.VISION,
    "MixtralForCausalLM": {**tiny.TEXT, "num_local_experts": 4},
    "Qwen2MoeForCausalLM": {**MOE, "num_experts": 4, "shared_expert_intermediate_size": 40},
    "GptOssForCausalLM": {**tiny.TEXT, "num_local_experts": 4, "head_dim": 8},
    "GraniteMoeForCausalLM": {**tiny.TEXT, "num_local_experts": 4, "num_experts_per_tok": 2},
    "MambaForCausalLM": {**STATE, "time_step_rank": 4},
    "Mamba2ForCausalLM": {**STATE, "num_heads": 8, "head_dim": 8, "n_groups": 1},  # holds infinity
    "Wav2Vec2ForCTC": {
        **{**tiny.TEXT, "conv_dim": [16, 16], "conv_stride": [2, 2], "conv_kernel": [3, 3]},
        **{"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
    },
}


def saved(kind: str, folder) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    if kind in tiny.MULTIMODAL:
        model = tiny.multimodal(kind)
    else:
        named = getattr(transformers, kind)
        model = named(named.config_class(**MODELS[kind]))
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", [*MODELS, *tiny.MULTIMODAL])
def test_every_weight_is_the_loaded_model_s(kind, tmp_path):
    model = saved(kind, tmp_path)
    checkpoint = as_used(open_checkpoint(tmp_path))
    assert checkpoint.basis == f"as transformers' {type(model).__name__} uses them"
    assert not checkpoint.absent
    for info in checkpoint.tensors:
        if info.why.startswith("no parameter"):
            continue
        if "pos_conv" in info.name and info.refused:  # a convolution in groups, in two factors
            assert info.why
            continue
        module, _, leaf = info.name.rpartition(".")
        expected = getattr(model.get_submodule(module), leaf)
        torch.testing.assert_close(info.read(), expected.detach(), rtol=0, atol=0)
        if not info.why:
            parts = list(expected) if info.stack else [expected.flatten(1)]
            found = [weight for _, weight in checkpoint.matrices(info)]
            assert len(found) == len(parts)
            assert all(map(torch.equal, found, parts)), info.name
    names = {info.name for info in checkpoint.tensors if not info.why}
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    assert linear <= names


def test_only_one_expert_of_a_stack_is_read_at_a_time(tmp_path):
    saved("MixtralForCausalLM", tmp_path)
    files = open_checkpoint(tmp_path)
    read = []
    files.tensors = [
        replace(info, source=lambda info=info: read.append(info.name) or info.read())
        for info in files.tensors
    ]
    checkpoint = as_used(files)
    info = next(i for i in checkpoint.tensors if i.name.endswith("experts.gate_up_proj"))
    next(checkpoint.matrices(info))
    assert [name.rpartition("experts.")[2] for name in read] == ["0.w1.weight", "0.w3.weight"]


def edit(folder, change) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def test_what_the_model_has_and_the_files_lack_is_named(tmp_path):
    saved("LlamaForCausalLM", tmp_path)
    up, down = (f"model.layers.1.mlp.{kind}_proj.weight" for kind in ("up", "down"))
    edit(
        tmp_path,
        lambda t: (
            {k: v for k, v in t.items() if k != up}
            | {down: torch.empty(0), "extra.weight": torch.ones(3, 3)}
        ),
    )
    checkpoint = as_used(open_checkpoint(tmp_path))
    assert checkpoint.absent == {up: "in the model and not in its files"}
    empty = next(info for info in checkpoint.tensors if info.name == down)
    assert not empty.why
    with pytest.raises(CheckpointError, match="empty"):
        empty.read()
    assert {i.name: i.why for i in checkpoint.tensors if i.why.startswith("no param")} == {
        "extra.weight": "no parameter of transformers' LlamaForCausalLM"
    }


def test_a_part_of_a_stack_that_the_files_lack_is_an_error(tmp_path):
    """transformers then refuses to put any stack together, and names alone decide."""
    saved("MixtralForCausalLM", tmp_path)
    lost = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    edit(tmp_path, lambda t: {name: tensor for name, tensor in t.items() if name != lost})
    with pytest.raises(ScanError, match="missing") as caught:
        scan(tmp_path, device="cpu")
    assert "by the names of stored tensors alone" in caught.value.table.attrs["basis"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "of_tomorrow"}, "knows no model type 'of_tomorrow'"),
        ({"architectures": ["OwnForCausalLM"]}, "has no model 'OwnForCausalLM'"),
        ({"hidden_size": "wide"}, "transformers refuses it"),
        (None, "there is no config.json"),
        ({}, "transformers is not installed"),
    ],
)
def test_without_a_model_to_ask_names_decide_and_it_is_said(change, said, tmp_path, monkeypatch):
    saved("LlamaForCausalLM", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | (change or {})
    path.unlink()
    if change is not None:
        path.write_text(json.dumps(config))
    if change == {}:
        monkeypatch.setitem(sys.modules, "transformers", None)
    checkpoint = as_used(open_checkpoint(tmp_path))
    assert said in checkpoint.basis
    assert sum(not info.why for info in checkpoint.tensors) == 14


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    saved("LlamaForCausalLM", tmp_path)
    path = tmp_path / "config.json"
    code = {"AutoModelForCausalLM": "modeling_own.OwnModel", "AutoConfig": "modeling_own.OwnConfig"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": code}))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('run')")
    assert as_used(open_checkpoint(tmp_path)).basis.startswith("as transformers' LlamaForCausalLM")
