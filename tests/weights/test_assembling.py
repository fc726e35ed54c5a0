"""Weights that are stored in factors: what PyTorch's own modules compute with, or a refusal."""

import json

import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from kappa_lib.errors import CheckpointError
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


def weights(checkpoint):
    """Local name → values of all that can have singular values."""
    infos = [info for info in checkpoint.tensors if len(info.shape) > 1]
    return {i.name.removeprefix("layers.0."): i.read().detach().numpy() for i in infos}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("normed", [old_weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_normalisation_is_size_times_direction(normed, dim, checkpoint_of):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"proj": nn.Linear(5, 7), "conv": nn.Conv1d(4, 6, 3), "one": nn.Linear(3, 1)}
    )
    expected = {}
    for name, module in model.items():
        direction = module.weight.detach().numpy().astype(np.float64)
        normed(module, dim=dim)
        size = dict(module.named_parameters()).get("weight_g")
        size = module.parametrizations.weight.original0 if size is None else size
        with torch.no_grad():
            size.mul_(torch.rand_like(size) + 0.5)
        over = tuple(d for d in range(direction.ndim) if d != dim)
        norm = np.sqrt((direction**2).sum(axis=over, keepdims=True))
        expected[f"{name}.weight"] = size.detach().numpy() * direction / norm
        module(torch.zeros(1, *module.weight.shape[1:]) if name != "conv" else torch.zeros(1, 4, 9))
        np.testing.assert_allclose(module.weight.detach(), expected[f"{name}.weight"], rtol=1e-5)
    found = weights(checkpoint_of(model))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_pruning_is_weight_times_mask(dtype, checkpoint_of):
    model = nn.ModuleDict({"proj": nn.Linear(6, 5)})
    prune.random_unstructured(model["proj"], "weight", 0.4)
    model["proj"].weight_mask = model["proj"].weight_mask.to(dtype)
    found = weights(checkpoint_of(model))
    expected = model["proj"].weight_orig.detach().numpy() * model["proj"].weight_mask.numpy()
    assert found.keys() == {"proj.weight"}
    np.testing.assert_array_equal(found["proj.weight"], expected)
    assert (expected == 0).sum() == 12


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def other(kind):
    model = nn.ModuleDict({"proj": nn.Linear(6, 6, bias=False)})
    if kind == "own":
        parametrize.register_parametrization(model["proj"], "weight", Doubled())
    else:
        kind(model["proj"])
    return model


@pytest.mark.parametrize(
    "kind",
    [old_spectral_norm, parametrizations.spectral_norm, parametrizations.orthogonal, "own"],
)
def test_other_parametrisations_are_refused_by_the_weight_s_name(kind, checkpoint_of):
    checkpoint = checkpoint_of(other(kind))
    (info,) = (info for info in checkpoint.tensors if len(info.shape) > 1)
    assert info.name.endswith("proj.weight")
    with pytest.raises(CheckpointError, match=r"proj\.weight: stored as .*put together"):
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
def test_lora_beside_its_weight_is_refused_and_the_others_are_read(dora, checkpoint_of):
    model = get_peft_model(two_layers(), LoraConfig(r=2, target_modules=["1"], use_dora=dora))
    checkpoint = checkpoint_of(model)
    plain, changed = checkpoint.tensors
    assert plain.read().shape == (8, 8)
    with pytest.raises(CheckpointError, match=r"1\.base_layer\.weight: LoRA") as caught:
        changed.read()
    assert "merge" in caught.value.remedy
    assert not checkpoint.problems


@pytest.mark.parametrize("config", [LoraConfig, LoHaConfig, LoKrConfig, OFTConfig])
def test_an_adapter_alone_is_refused(config, tmp_path):
    size = {} if config is OFTConfig else {"r": 2}
    get_peft_model(two_layers(), config(target_modules=["1"], **size)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"]
    with pytest.raises(CheckpointError, match="of an adapter") as caught:
        open_checkpoint(tmp_path)
    assert "merge" in caught.value.remedy


def test_factors_that_other_trainers_save_are_an_adapter_s(tmp_path):
    ends = ("lora_down.weight", "lora_up.weight", "hada_w1_a", "lokr_w2")
    stored = {f"lora_unet_down_blocks_0_to_q.{end}": torch.rand(4, 4) for end in ends}
    save_file(stored, tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match="4 tensors of an adapter"):
        open_checkpoint(tmp_path / "style.safetensors")
