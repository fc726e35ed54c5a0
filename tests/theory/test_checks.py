"""Refusals of what has no condition number."""

import pytest
import torch

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import as_matrix

BROKEN = {
    "NaN": torch.tensor([[1.0, float("nan")], [0.0, 1.0]]),
    "infinite": torch.tensor([[1.0, float("-inf")], [0.0, 1.0]], dtype=torch.bfloat16),
    "empty": torch.empty(0, 4),
    "matrix": torch.ones(4),
    "zero": torch.zeros(3, 3),
    "floating": torch.ones(2, 2, dtype=torch.uint8),
}


@pytest.mark.parametrize(("word", "weight"), BROKEN.items(), ids=list(BROKEN))
def test_refusal_names_the_tensor_and_the_reason(word, weight):
    with pytest.raises(InputError, match=word) as caught:
        as_matrix(weight, "layers.3.q_proj")
    assert "layers.3.q_proj" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("thing", [None, "model.safetensors", torch.nn.Linear(2, 2)])
def test_what_is_no_array_is_refused(thing):
    with pytest.raises(InputError, match=f"weight: {type(thing).__name__} is no array"):
        as_matrix(thing)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_passes_unchanged(dtype):
    weight = torch.eye(3, dtype=dtype)
    assert as_matrix(weight).dtype == dtype


def test_one_byte_floats_are_taken_and_their_nan_is_seen():
    weight = torch.eye(3).to(torch.float8_e4m3fn)
    assert as_matrix(weight).dtype == torch.float8_e4m3fn
    with pytest.raises(InputError, match="NaN"):
        as_matrix(torch.full((2, 2), float("nan")).to(torch.float8_e4m3fn))
