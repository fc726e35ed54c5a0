"""Packed weights against the numbers that the packing library itself gives back.

``data/packed_by_bitsandbytes_0.50.2.safetensors`` was written by bitsandbytes 0.50.2 from normal
random matrices: NF4, FP4, NF4 with nested scales, LLM.int8. ``expected.<kind>`` holds the first
and the last row of what its own dequantisation returns.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kappa_lib.errors import CheckpointError
from kappa_lib.weights.models import open_checkpoint

WRITTEN = Path(__file__).parent.parent / "data" / "packed_by_bitsandbytes_0.50.2.safetensors"
SHAPES = {"nf4": (24, 64), "fp4": (24, 64), "nested": (40, 512), "int8": (24, 64)}


@pytest.mark.parametrize("kind", SHAPES)
def test_unpacked_equals_bitsandbytes(kind):
    checkpoint = open_checkpoint(WRITTEN)
    info = next(i for i in checkpoint.tensors if i.name == f"{kind}.weight")
    weight = checkpoint.read(info)
    expected = load_file(WRITTEN)[f"expected.{kind}"]
    assert weight.shape == info.shape == SHAPES[kind]
    torch.testing.assert_close(weight[[0, -1]], expected, rtol=1e-6, atol=1e-7)


def test_scales_and_codes_are_not_taken_for_weights():
    names = {info.name for info in open_checkpoint(WRITTEN).tensors}
    assert names == {f"{kind}.weight" for kind in SHAPES} | {f"expected.{k}" for k in SHAPES}


def test_stored_format_is_told():
    dtypes = {i.name: i.dtype for i in open_checkpoint(WRITTEN).tensors}
    assert dtypes["nf4.weight"] == dtypes["nested.weight"] == "NF4"
    assert (dtypes["fp4.weight"], dtypes["int8.weight"]) == ("FP4", "I8+SCB")


def scaled(shape: tuple[int, int], scale: torch.Tensor, name: str, tmp_path) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    save_file({"a.weight": values, f"a.{name}": scale}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert [info.name for info in checkpoint.tensors] == ["a.weight"]
    return checkpoint.read(checkpoint.tensors[0]) / values.float()


def test_fp8_scale_of_a_tensor(tmp_path):
    ratio = scaled((4, 6), torch.tensor(3.0), "weight_scale", tmp_path)
    torch.testing.assert_close(ratio, torch.full((4, 6), 3.0))


def test_fp8_scale_of_a_row(tmp_path):
    ratio = scaled((4, 6), torch.arange(1.0, 5).reshape(4, 1), "weight_scale", tmp_path)
    torch.testing.assert_close(ratio, torch.arange(1.0, 5)[:, None].expand(4, 6))


def test_fp8_scale_of_a_block_with_ragged_ends(tmp_path):
    scale = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    ratio = scaled((130, 300), scale, "weight_scale_inv", tmp_path)
    assert ratio[0, 0] == 1
    assert ratio[127, 255] == 2
    assert ratio[129, 128] == 5
    assert ratio[128, 299] == 6


def test_fp8_scales_of_blocks_may_be_as_many_as_rows(tmp_path):
    """As of DeepSeek-V3's output matrices, which have 16384 columns."""
    scale = torch.arange(1.0, 129)[None]
    ratio = scaled((128, 16384), scale, "weight_scale_inv", tmp_path)
    assert (ratio[:, 0] == 1).all()
    assert (ratio[:, -1] == 128).all()


@pytest.mark.parametrize(
    ("codes", "scales"), [("qweight", "scales"), ("weight_packed", "weight_scale")]
)
def test_scales_of_codes_that_are_refused_are_no_weights(codes, scales, tmp_path):
    stored = {f"a.{codes}": torch.ones(4, 4).int(), f"a.{scales}": torch.ones(2, 4)}
    save_file(stored, tmp_path / "model.safetensors")
    assert [info.name for info in open_checkpoint(tmp_path).tensors] == [f"a.{codes}"]


def test_fp8_scales_of_unknown_layout_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="fit no known layout"):
        scaled((4, 6), torch.ones(3, 2), "weight_scale", tmp_path)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.qweight", torch.int32), ("a.weight", torch.uint8), ("a.weight", torch.float8_e4m3fn)],
)
def test_unknown_packing_is_refused_by_name(name, dtype, tmp_path):
    save_file({name: torch.ones(4, 4).to(dtype)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{name}: packed as .* not understood"):
        checkpoint.read(checkpoint.tensors[0])
