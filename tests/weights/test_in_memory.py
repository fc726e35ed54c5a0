"""Models in memory whose weights are not where a plain model has them: each is read, or refused."""

import numpy as np
import pytest
import tiny
import torch
import transformers
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kappa_lib.spectra.scan import ScanError, scan


class Codes(nn.Module):
    """A linear layer as GPTQ keeps it: its codes are buffers, and there is no parameter."""

    def __init__(self, rows, cols):
        super().__init__()
        self.register_buffer("qweight", torch.zeros(cols // 8, rows, dtype=torch.int32))
        self.register_buffer("qzeros", torch.zeros(1, rows // 8, dtype=torch.int32))
        self.register_buffer("scales", torch.ones(1, rows).half())


def packed_codes(model):
    for layer in model.model.layers:
        layer.mlp.up_proj = Codes(48, 32)


def packed_by_torch(model):
    kept = {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}
    torch.ao.quantization.quantize_dynamic(
        model, dict.fromkeys(kept, torch.ao.quantization.default_dynamic_qconfig), inplace=True
    )


def packed_as_a_buffer(model):
    for layer in model.model.layers:
        bits = nn.Module()
        bits.register_buffer("weight", torch.zeros(12, 32, dtype=torch.uint8))
        bits.register_buffer("weight_scale", torch.ones(1))
        layer.mlp.up_proj = bits


def emptied(model):
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.data = torch.empty(0)


def without_parameters(model):
    for layer in model.model.layers:
        weight = layer.mlp.up_proj._parameters.pop("weight")
        layer.mlp.up_proj.weight = weight.detach()


@pytest.fixture
def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.TEXT)).eval()


@pytest.mark.filterwarnings("ignore:torch.ao.quantization")
@pytest.mark.parametrize(
    "change", [packed_codes, packed_by_torch, packed_as_a_buffer, emptied, without_parameters]
)
def test_a_layer_whose_weight_is_no_parameter_is_named(llama, change):
    change(llama)
    with pytest.raises(ScanError) as caught:
        scan(llama)
    assert {n.split(".")[2] for n in caught.value.failures if "up_proj" in n} == {"0", "1"}
    assert len(caught.value.failures) == 2
    assert len(caught.value.table) == 2 * 6


def test_a_sharded_model_is_read_as_a_whole(llama):
    plain = scan(llama).set_index("tensor")["kappa"]
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(llama, mesh=init_device_mesh("cpu", (1,)))
        sharded = scan(llama).set_index("tensor")["kappa"]
    finally:
        distributed.destroy_process_group()
    np.testing.assert_array_equal(sharded[plain.index], plain)


def test_the_output_layer_is_none_inside_of_a_wrapper_either(llama):
    assert not llama.config.tie_word_embeddings
    found = scan(nn.DataParallel(llama))
    assert len(found) == len(scan(llama)) == 2 * 7
    assert found.attrs["left_out"]["the output layer"] == ["module.lm_head.weight"]
