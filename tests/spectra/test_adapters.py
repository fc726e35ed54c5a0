"""What PEFT adapts is what was selected, or it is left out by name, for each family of models."""

import sys

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from kappa_lib.run import cli
from kappa_lib.spectra.scan import ScanError, scan
from kappa_lib.spectra.selection import candidates, select

TEXT = {**tiny.TEXT, "num_hidden_layers": 4}
MOE = {**TEXT, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
STATE = {"vocab_size": 64, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 4}
# Class → settings, and the end of a name that PEFT does not adapt alone; empty where it adapts all.
FAMILIES = {
    "LlamaForCausalLM": (TEXT, ""),
    "GPT2LMHeadModel": ({"vocab_size": 64, "n_embd": 32, "n_layer": 4, "n_head": 4}, ""),
    "ViTForImageClassification": (tiny.VISION, ""),
    "AlbertForMaskedLM": ({**TEXT, "embedding_size": 16}, ""),
    "MixtralForCausalLM": ({**TEXT, "num_local_experts": 4}, "experts.down_proj[0]"),
    "MambaForCausalLM": ({**STATE, "time_step_rank": 4}, "mixer.out_proj.weight"),
    "Glm4MoeForCausalLM": (
        {
            **{**MOE, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "head_dim": 8},
            **{"topk_group": 1, "first_k_dense_replace": 1},
        },
        "layers.0.mlp.down_proj.weight",
    ),
}


@pytest.fixture(scope="module")
def family(request, tmp_path_factory):
    """A saved model of a family, its class, its κ table, and the end of what is left out."""
    settings, left_out = FAMILIES[request.param]
    named = getattr(transformers, request.param)
    torch.manual_seed(0)
    model = named(named.config_class(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("family")
    model.save_pretrained(folder)
    return folder, named, scan(folder, device="cpu"), left_out


@pytest.mark.parametrize("family", FAMILIES, indirect=True, scope="module")
def test_what_is_selected_is_what_peft_adapts(family):
    folder, named, table, left_out = family
    refused = table.attrs["not_adapted"]
    assert any(name.endswith(left_out) for name in refused) if left_out else not refused
    assert not set(candidates(table)["tensor"]) & set(refused)
    for arm in ("selected", "inverse", "all"):
        chosen = select(table, arm, share=0.446)
        model = named.from_pretrained(folder, dtype=torch.float32)
        assert tiny.adapted(model, chosen.peft_targets()) == set(chosen.tensors)


def test_a_name_that_ends_another_is_left_out():
    """PEFT takes a module's name for that of every module which ends with it."""
    torch.manual_seed(0)
    vision = {"embed_dim": 32, "image_size": 28, "patch_size": 14, "num_hidden_layers": 2}
    settings = transformers.IdeficsConfig(
        **{**TEXT, "additional_vocab_size": 0, "use_resampler": False},
        vision_config=vision | {"num_attention_heads": 4, "intermediate_size": 48},
    )
    table = scan(transformers.IdeficsModel(settings))
    assert "layers.1.self_attn.k_proj.weight" in table.attrs["not_adapted"]
    for arm in ("inverse", "random", "lowest_in_type"):
        chosen = select(table, arm, share=0.3)
        model = transformers.IdeficsModel(settings)
        assert tiny.adapted(model, chosen.peft_targets()) == set(chosen.tensors)


def test_without_peft_the_table_says_that_nothing_was_tried(monkeypatch):
    model = tiny.untied_llama(layers=2)
    assert scan(model, device="cpu").attrs["not_tried"] == ""
    monkeypatch.setitem(sys.modules, "peft", None)
    table = scan(model, device="cpu")
    assert table.attrs["not_tried"] == "PEFT is not installed"
    assert table.attrs["not_adapted"] == {}


def test_what_is_missing_is_named_and_the_status_is_not_0_unless_it_is_excluded(tmp_path, capsys):
    tiny.untied_llama(layers=4).save_pretrained(tmp_path)
    path, gone = tmp_path / "model.safetensors", "model.layers.2.self_attn.k_proj.weight"
    save_file({k: v for k, v in load_file(path).items() if k != gone}, path, {"format": "pt"})
    with pytest.raises(ScanError) as caught:
        scan(tmp_path, device="cpu")
    assert list(caught.value.failures) == [gone]
    assert len(caught.value.table) == 27
    command = ["scan", str(tmp_path), "--device", "cpu"]
    assert cli.main(command) == cli.WRONG
    assert gone in capsys.readouterr().err
    assert cli.main([*command, "--exclude", gone]) == 0


def test_the_command_lists_what_is_no_weight(tmp_path, capsys):
    named = transformers.MambaForCausalLM
    named(named.config_class(**STATE, time_step_rank=4)).save_pretrained(tmp_path)
    assert cli.main(["scan", str(tmp_path), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "as transformers' MambaForCausalLM uses them" in said
    assert "backbone.layers.*.mixer.A_log (4)" in said
    assert "backbone.layers.*.mixer.conv1d.weight (4)" in said
