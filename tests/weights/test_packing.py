"""Packed weights against NumPy's arithmetic and the packing library's own numbers; what is not
unpacked is refused as a whole.

``data/packed_by_bitsandbytes_0.50.2.safetensors`` was written by bitsandbytes 0.50.2 from normal
random matrices. ``expected.<kind>`` holds the first and the last row of what its own dequantisation
returns.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kappa_lib.errors import CheckpointError
from kappa_lib.weights.models import open_checkpoint

NF4 = np.array(
    [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
     0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0],
    np.float32,
)  # fmt: skip
WRITTEN = Path(__file__).parent.parent / "data" / "packed_by_bitsandbytes_0.50.2.safetensors"
KINDS = {
    "nf4": ((24, 64), "NF4"),
    "fp4": ((24, 64), "FP4"),
    "nested": ((40, 512), "NF4"),
    "int8": ((24, 64), "I8+SCB"),
}
PLAIN = {"model.norm.weight": torch.ones(8), "model.layers.0.mlp.up_proj.weight": torch.eye(8)}


def opened(folder, tensors, **config):
    """A checkpoint of one file with these tensors and a plain matrix beside them."""
    save_file(PLAIN | tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def read(checkpoint, name):
    return {info.name: info for info in checkpoint.tensors}[name].read().numpy()


def test_unpacked_equals_bitsandbytes_and_no_part_of_it_is_listed():
    tensors, expected = open_checkpoint(WRITTEN).tensors, load_file(WRITTEN)
    found = {info.name: info for info in tensors if info.name.endswith(".weight")}
    assert len(found) == len(KINDS) == len(tensors) - len(KINDS)
    for kind, (shape, dtype) in KINDS.items():
        info = found[f"{kind}.weight"]
        weight = info.read()
        assert (weight.shape, info.shape, info.dtype) == (shape, shape, dtype)
        rows = expected[f"expected.{kind}"]
        torch.testing.assert_close(weight[[0, -1]], rows, rtol=1e-6, atol=1e-7)


def four_bit(name, weight, carrier):
    """Name → tensor as bitsandbytes saves NF4 with ``bnb_4bit_quant_storage``, and the values."""
    blocks = weight.reshape(-1, 64)
    scales = np.abs(blocks).max(1, keepdims=True)
    codes = np.abs((blocks / scales)[..., None] - NF4).argmin(-1).astype(np.uint8).reshape(-1, 2)
    packed = torch.from_numpy(codes[:, 0] << 4 | codes[:, 1]).view(carrier).reshape(-1, 1)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [*weight.shape]}
    stored = {
        name: packed,
        f"{name}.absmax": torch.from_numpy(scales.reshape(-1)),
        f"{name}.quant_map": torch.from_numpy(NF4),
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor([*json.dumps(state).encode()]).byte(),
    }
    return stored, (NF4[codes.reshape(-1)].reshape(-1, 64) * scales).reshape(weight.shape)


@pytest.mark.parametrize(
    "carrier", [torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("name", ["model.layers.0.a.weight", "model.layers.0.experts.gate_up_proj"])
def test_4_bit_codes_are_read_by_their_record_whatever_type_carries_them(carrier, name, tmp_path):
    weight = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    stored, expected = four_bit(name, weight, carrier)
    checkpoint = opened(tmp_path, stored)
    assert {info.name for info in checkpoint.tensors} == {name, *PLAIN}
    np.testing.assert_allclose(read(checkpoint, name), expected, rtol=1e-6)


@pytest.mark.parametrize("lost", ["quant_state.bitsandbytes__nf4", "absmax", "quant_map"])
def test_4_bit_codes_without_all_of_their_record_are_refused(lost, tmp_path):
    weight = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    name = "model.layers.0.a.weight"
    stored, _ = four_bit(name, weight, torch.bfloat16)
    del stored[f"{name}.{lost}"]
    checkpoint = opened(tmp_path, stored)
    assert {info.name for info in checkpoint.tensors} == {name, *PLAIN}
    with pytest.raises(CheckpointError, match=f"{name}: (packed|stored) as"):
        read(checkpoint, name)


def test_4_bit_codes_with_no_record_left_are_refused_where_the_configuration_says_packed(tmp_path):
    stored = {"model.layers.0.a.weight": torch.randn(768, 1).bfloat16()}
    packing = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    checkpoint = opened(tmp_path, stored, quantization_config=packing)
    with pytest.raises(CheckpointError, match="not understood"):
        read(checkpoint, "model.layers.0.a.weight")


SCALES = {
    "a tensor": ((), lambda s: s),
    "a row": ((12, 1), lambda s: s),
    "a row, as a list": ((12,), lambda s: s[:, None]),
    "a group of columns": ((12, 4), lambda s: s.repeat(5, 1)),
    "a block": ((3, 4), lambda s: s.repeat(5, 0).repeat(6, 1)[:12, :20]),
}


@pytest.mark.parametrize(("shape", "wide"), SCALES.values(), ids=list(SCALES))
@pytest.mark.parametrize(
    ("dtype", "suffix", "zero"),
    [
        (torch.int8, "scale", False),
        (torch.int8, "scale", True),
        (torch.float8_e4m3fn, "scale", False),
        (torch.float8_e4m3fn, "scale_inv", False),
    ],
)
def test_8_bit_codes_minus_zero_point_are_multiplied_by_their_scale(
    shape, wide, dtype, suffix, zero, tmp_path
):
    r = np.random.default_rng(0)
    codes = torch.from_numpy(r.integers(-127, 128, (12, 20))).to(dtype)
    scale, offset = r.uniform(0.1, 2, shape).astype(np.float32), r.integers(-9, 9, shape)
    name = "model.layers.0.a.weight"
    stored = {name: codes, f"{name}_{suffix}": torch.tensor(scale)}
    if zero:
        stored[f"{name}_zero_point"] = torch.tensor(offset).to(torch.int8)
    packing = {"quant_method": "compressed-tensors", "weight_block_size": [5, 6]}
    checkpoint = opened(tmp_path, stored, quantization_config=packing)
    assert {info.name for info in checkpoint.tensors} == {name, *PLAIN}
    expected = (codes.float().numpy() - (wide(offset) if zero else 0)) * wide(scale)
    np.testing.assert_allclose(read(checkpoint, name), expected, rtol=1e-6)


# The last as of DeepSeek-V3's output matrices, which have 16384 columns.
@pytest.mark.parametrize("shape", [(130, 300), (128, 16384)])
def test_fp8_blocks_are_128_wide_and_ragged_at_the_ends(shape, tmp_path):
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    blocks = tuple(-(-side // 128) for side in shape)
    scale = np.arange(1, 1 + np.prod(blocks), dtype=np.float32).reshape(blocks)
    stored = {"a.weight": codes, "a.weight_scale_inv": torch.from_numpy(scale)}
    wide = scale.repeat(128, 0)[: shape[0]].repeat(128, 1)[:, : shape[1]]
    expected = codes.float().numpy() * wide
    np.testing.assert_array_equal(read(opened(tmp_path, stored), "a.weight"), expected)


def test_fp8_scales_of_unknown_layout_are_refused(tmp_path):
    stored = {"a.weight": torch.ones(4, 6).to(torch.float8_e4m3fn)}
    checkpoint = opened(tmp_path, stored | {"a.weight_scale": torch.ones(3, 2)})
    with pytest.raises(CheckpointError, match="fit no known layout"):
        read(checkpoint, "a.weight")


@pytest.mark.parametrize("tiles", [0, 2])
def test_int8_rows_in_tiles_are_refused(tiles, tmp_path):
    codes = torch.arange(-32, 32, dtype=torch.int8).reshape(8, 8)
    stored = {"a.weight": codes, "a.SCB": torch.full((8,), 127.0)}
    checkpoint = opened(tmp_path, stored | {"a.weight_format": torch.tensor(tiles).byte()})
    if tiles:
        with pytest.raises(CheckpointError, match="weight_format"):
            read(checkpoint, "a.weight")
    else:
        np.testing.assert_array_equal(read(checkpoint, "a.weight"), codes.float().numpy())


def test_fp8_experts_have_blocks_of_their_own(tmp_path):
    values = torch.randn(3, 130, 20, generator=torch.Generator().manual_seed(0))
    codes, scale = values.to(torch.float8_e4m3fn), torch.arange(1.0, 7).reshape(3, 2, 1)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    checkpoint = opened(tmp_path, {name: codes, f"{name}_scale_inv": scale})
    wide = scale.numpy().repeat(128, 1)[:, :130]
    np.testing.assert_array_equal(read(checkpoint, name), codes.float().numpy() * wide)


def codes(*shape, dtype=torch.int32):
    return torch.ones(shape, dtype=dtype)


# What each format's own tools save for one linear layer.
FORMATS = {
    "GPTQ": {"qweight": codes(2, 8), "qzeros": codes(1, 1), "scales": torch.ones(1, 8),
             "g_idx": codes(16)},
    "AWQ": {"qweight": codes(16, 1), "qzeros": codes(1, 1), "scales": torch.ones(1, 8)},
    "pack-quantized": {"weight_packed": codes(8, 2), "weight_scale": torch.ones(8, 2),
                       "weight_shape": codes(2, dtype=torch.int64)},
    "NVFP4": {"weight": codes(8, 8, dtype=torch.uint8), "weight_scale_2": torch.ones(1),
              "weight_scale": torch.ones(8, 1).to(torch.float8_e4m3fn)},
    "MXFP8": {"weight": torch.ones(8, 32).to(torch.float8_e4m3fn),
              "weight_scale": codes(8, 1, dtype=torch.uint8)},
    "SmoothQuant": {"weight": codes(8, 8, dtype=torch.int8), "weight_scale": torch.ones(8),
                    "pre_quant_scale": torch.ones(8), "input_scale": torch.ones(())},
    "sparse": {"bitmask": codes(8, 2, dtype=torch.uint8), "compressed": torch.ones(64),
               "row_offsets": codes(8, dtype=torch.int64), "shape": codes(2, dtype=torch.int64)},
    "HQQ": {"W_q": codes(8, 8, dtype=torch.uint8), "scale": torch.ones(16, 1),
            "zero": torch.ones(16, 1)},
    "HQQ as floats": {"W_q": torch.ones(8, 8).half(), "scale": torch.ones(16, 1),
                      "zero": torch.ones(16, 1)},
    "AQLM": {"codes": codes(8, 2, 1, dtype=torch.int16), "codebooks": torch.ones(1, 4, 1, 8),
             "scales": torch.ones(8, 1, 1, 1)},
    "VPTQ": {"indices": codes(1, 8, 4, dtype=torch.int16), "centroids.weight": torch.ones(1, 64),
             "weight_scale": torch.ones(16)},
    "EETQ": {"qweight": codes(16, 8, dtype=torch.int8), "weight_scales": torch.ones(8)},
    "quanto": {"weight._data": codes(8, 8, dtype=torch.uint8), "weight._scale": torch.ones(8, 2),
               "weight._shift": torch.ones(8, 2), "input_scale": torch.ones(())},
    "torchao": {"weight_qdata": codes(8, 8, dtype=torch.int8), "weight_scale": torch.ones(8, 2),
                "weight_zero_point": torch.ones(8, 2)},
    "BitNet": {"weight": codes(2, 16, dtype=torch.uint8), "weight_scale": torch.ones(1)},
    "MLX": {"weight": codes(8, 2).to(torch.uint32), "scales": torch.ones(8, 1),
            "biases": torch.ones(8, 1)},
    "codes of 32 bits alone": {"qweight": codes(4, 4)},
    "codes of 8 bits alone": {"weight": codes(4, 4, dtype=torch.uint8)},
    "FP8 without scales": {"weight": torch.ones(4, 4).to(torch.float8_e4m3fn)},
    "codes as floats": {"weight": torch.ones(8, 8), "weight_scale": torch.ones(8, 1)},
    "FP4 in bytes, a scale of exponents": {
        "weight": codes(8, 8, dtype=torch.int8),
        "weight_scale_inv": torch.ones(8, 1).to(torch.float8_e8m0fnu),
    },
    "a format of tomorrow": {"ladder": codes(8, 4, dtype=torch.uint8), "rungs": torch.ones(8, 2)},
}  # fmt: skip


@pytest.mark.parametrize("packing", [{}, {"quantization_config": {"quant_method": "anything"}}])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_packing_that_is_not_understood_is_refused_and_no_part_of_it_listed(
    kind, packing, tmp_path
):
    layer = "model.layers.0.self_attn.q_proj"
    parts = {f"{layer}.{name}": tensor for name, tensor in FORMATS[kind].items()}
    checkpoint = opened(tmp_path, parts | {f"{layer}.bias": torch.ones(8)}, **packing)
    plain = {*PLAIN, f"{layer}.bias"}
    (refused,) = (info for info in checkpoint.tensors if info.name not in plain)
    assert refused.name in parts
    assert refused.refused
    with pytest.raises(CheckpointError, match=f"{layer}.*not understood"):
        refused.read()
    assert checkpoint.left_out == {}


@pytest.mark.parametrize(
    "suffixes", [("_blocks", "_scales"), ("_packed", "_scale")], ids=["MXFP4", "another"]
)
def test_packed_experts_are_refused_together(suffixes, tmp_path):
    layer = "model.layers.0.mlp.experts"
    stored = {
        f"{layer}.{name}{suffix}": codes(2, 8, 4, dtype=torch.uint8)
        for name in ("gate_up_proj", "down_proj")
        for suffix in suffixes
    }
    stored[f"{layer}.down_proj_bias"] = torch.ones(2, 8)
    packing = {"quant_method": "mxfp4"}
    checkpoint = opened(tmp_path, stored, quantization_config=packing)
    (refused,) = (info for info in checkpoint.tensors if info.refused)
    with pytest.raises(CheckpointError, match=r"U8 with .*down_proj"):
        refused.read()
    assert f"{layer}.down_proj_bias" in {info.name for info in checkpoint.tensors}


BUFFERS = {
    "freqs_cis": torch.ones(8, 4, dtype=torch.complex64),
    "model.ids": torch.ones(4).to(torch.uint16),
    "model.table": torch.ones(4, 4).to(torch.uint32),
    "model.layers.0.attn.causal_mask": codes(1, 1, 8, 8, dtype=torch.uint8),
    "model.layers.0.attn.bias_mask": codes(1, 1, 8, 8, dtype=torch.bool),
    "model.embeddings.position_ids": codes(1, 16, dtype=torch.int64),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_is_left_out_by_name_and_the_weights_are_read(name, tmp_path):
    checkpoint = opened(tmp_path, {name: BUFFERS[name]})
    assert {info.name for info in checkpoint.tensors} == PLAIN.keys()
    assert checkpoint.left_out.keys() == {name}
    assert not checkpoint.problems
    assert read(checkpoint, "model.layers.0.mlp.up_proj.weight").trace() == 8


@pytest.mark.parametrize("name", ["", ".weight", "a..weight", "a."])
def test_a_name_with_nothing_before_or_behind_a_dot_is_a_name(name, tmp_path):
    assert read(opened(tmp_path, {name: torch.eye(4)}), name).trace() == 4


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_mask_of_the_weight_s_own_shape_acts_on_it(dtype, tmp_path):
    layer = "model.layers.0.mlp.down_proj"
    stored = {f"{layer}.weight": torch.ones(4, 6), f"{layer}.mask": codes(4, 6, dtype=dtype)}
    checkpoint = opened(tmp_path, stored)
    (refused,) = (info for info in checkpoint.tensors if info.name not in PLAIN)
    with pytest.raises(CheckpointError, match="not understood"):
        refused.read()
