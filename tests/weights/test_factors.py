"""Weights that are stored in factors, and adapters, are refused."""

import json

import pytest
import torch
from peft import (
    HRAConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    ShiraConfig,
    get_peft_model,
    inject_adapter_in_model,
)
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from kappa_lib.errors import CheckpointError
from kappa_lib.weights.loaded import as_used
from kappa_lib.weights.models import open_checkpoint


@pytest.fixture(params=["file", "module"])
def checkpoint_of(request, tmp_path):
    """A model as a file and as itself."""

    def opened(model):
        if request.param == "module":
            return open_checkpoint(model)
        stored = {f"layers.0.{name}": t.contiguous() for name, t in model.state_dict().items()}
        save_file(stored, tmp_path / "model.safetensors")
        return open_checkpoint(tmp_path)

    return opened


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def factored(kind):
    model = nn.ModuleDict({"proj": nn.Linear(6, 6, bias=False)})
    if kind == "own":
        parametrize.register_parametrization(model["proj"], "weight", Doubled())
    elif kind == "pruned":
        prune.random_unstructured(model["proj"], "weight", 0.4)
    else:
        kind(model["proj"])
    return model


NORMS = [old_weight_norm, parametrizations.weight_norm, old_spectral_norm]
NORMS += [parametrizations.spectral_norm, parametrizations.orthogonal]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("kind", [*NORMS, "own", "pruned"])
def test_a_weight_in_factors_is_refused_by_its_name(kind, checkpoint_of):
    checkpoint = as_used(checkpoint_of(factored(kind)))
    (info,) = (info for info in checkpoint.tensors if len(info.shape) > 1)
    assert info.name.endswith("proj.weight")
    assert not info.why
    with pytest.raises(CheckpointError, match=r"proj\.weight: stored as .*put together"):
        info.read()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_pruned_weight_whose_mask_is_no_number_is_refused(dtype, tmp_path):
    model = factored("pruned")
    model["proj"].weight_mask = model["proj"].weight_mask.to(dtype)
    stored = {f"layers.0.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(stored, tmp_path / "model.safetensors")
    (info,) = open_checkpoint(tmp_path).tensors
    with pytest.raises(CheckpointError, match=r"layers\.0\.proj\.weight"):
        info.read()


def test_a_size_without_its_direction_is_no_matrix(tmp_path):
    save_file(
        {"a.weight_g": torch.rand(4, 1), "b.weight": torch.eye(4)}, tmp_path / "a.safetensors"
    )
    first, second = open_checkpoint(tmp_path).tensors
    assert second.read().trace() == 4
    with pytest.raises(CheckpointError, match="weight_g"):
        first.read()


def test_parameters_that_end_like_factors_are_what_they_are(tmp_path):
    """As RWKV-6 calls what it mixes, and Phi its rotary frequencies."""
    stored = {f"blocks.0.att.time_maa_{letter}": torch.rand(2, 4) for letter in "wkvrg"}
    stored["blocks.0.att.w_lora.lora.0.weight"] = torch.rand(2, 4)
    save_file(stored, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert {info.name for info in checkpoint.tensors} == stored.keys()
    for info in checkpoint.tensors:
        assert torch.equal(info.read(), stored[info.name])


def two_layers():
    return nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_with_lora_in_it_is_refused(dora, checkpoint_of):
    model = get_peft_model(two_layers(), LoraConfig(r=2, target_modules=["1"], use_dora=dora))
    with pytest.raises(CheckpointError, match="of an adapter") as caught:
        checkpoint_of(model.base_model.model)
    assert "merge" in caught.value.remedy


@pytest.mark.parametrize("config", [LoHaConfig, HRAConfig, MissConfig, ShiraConfig])
def test_a_model_with_any_adapter_in_it_is_refused(config, checkpoint_of):
    """What PEFT wraps is no longer the weight that acts, however it calls what it adds."""
    model = inject_adapter_in_model(config(r=2, target_modules=["1"]), two_layers())
    with pytest.raises(CheckpointError, match="of an adapter") as caught:
        checkpoint_of(model)
    assert "merge" in caught.value.remedy


def test_a_base_layer_of_a_model_s_own_is_a_weight(tmp_path):
    """As the DLA networks of timm call their first block."""
    save_file({"model.base_layer.0.weight": torch.eye(4)}, tmp_path / "dla.safetensors")
    (info,) = open_checkpoint(tmp_path / "dla.safetensors").tensors
    assert info.read().trace() == 4


@pytest.mark.parametrize("config", [LoraConfig, LoHaConfig, LoKrConfig, OFTConfig])
def test_an_adapter_alone_is_refused(config, tmp_path):
    size = {} if config is OFTConfig else {"r": 2}
    get_peft_model(two_layers(), config(target_modules=["1"], **size)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"]
    with pytest.raises(CheckpointError, match="of an adapter") as caught:
        open_checkpoint(tmp_path)
    assert "merge" in caught.value.remedy


def test_factors_that_other_trainers_save_are_an_adapter_s(tmp_path):
    ends = ("lora_down.weight", "lora_up.weight", "lora_a.weight", "hada_w1_a", "lokr_w2")
    stored = {f"lora_unet_down_blocks_0_to_q.{end}": torch.rand(4, 4) for end in ends}
    save_file(stored, tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match="5 tensors of an adapter"):
        open_checkpoint(tmp_path / "style.safetensors")
