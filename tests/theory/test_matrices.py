import gguf
import numpy as np
import pytest

from kappa_lib.errors import InputError
from kappa_lib.theory import matrices


def rng():
    return np.random.default_rng(0)


def test_random_orthogonal_is_orthogonal_and_seeded():
    q = matrices.random_orthogonal(30, rng())
    assert q @ q.T == pytest.approx(np.eye(30), abs=1e-12)
    assert (q == matrices.random_orthogonal(30, rng())).all()


@pytest.mark.parametrize("shape", [(3, 3), (3, 8), (8, 3)])
def test_matrix_has_the_spectrum_it_was_given(shape):
    weight = matrices.matrix_with_spectrum([5.0, 1e-3], *shape, rng())
    assert weight.shape == shape
    assert np.linalg.svd(weight, compute_uv=False) == pytest.approx([5, 1e-3, 0], abs=1e-12)


def test_log_spaced_spectrum_has_its_kappa_energy_and_spacing():
    s = matrices.log_spaced_spectrum(1e4, 9, 2.0)
    assert s[0] / s[-1] == pytest.approx(1e4)
    assert float(s @ s) == pytest.approx(2.0)
    assert s[:-1] / s[1:] == pytest.approx(10 ** np.full(8, 0.5))


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 24), ("float16", 11), ("bfloat16", 8)])
def test_float_storage_errs_by_half_a_unit_in_the_last_place(dtype, bits):
    weight = rng().uniform(0.5, 2, size=(64, 64))
    error = np.abs(matrices.store_as(weight, dtype) / weight - 1).max()
    assert 2.0 ** -(bits + 1) < error <= 2.0**-bits


def test_q4_1_has_sixteen_levels_a_block_and_errs_by_half_a_step():
    weight = rng().standard_normal((4, 64))
    stored = matrices.store_as(weight, "q4_1")
    for block, original in zip(stored.reshape(-1, 32), weight.reshape(-1, 32), strict=True):
        assert len(np.unique(block)) <= 16
        step = np.ptp(original) / 15
        assert np.abs(block - original).max() <= 0.51 * step
    assert matrices.store_as(np.full((1, 32), 0.25), "q4_1") == pytest.approx(0.25)


def test_q4_1_agrees_with_the_gguf_package():
    weight = rng().standard_normal((8, 96)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q4_1
    expected = gguf.dequantize(gguf.quantize(weight, kind), kind)
    # Both round to the same grid; a code may differ where a weight sits between two levels.
    assert np.median(np.abs(matrices.store_as(weight, "q4_1") - expected)) < 1e-3


def test_weyl_interval_holds_the_stored_value():
    weight = matrices.matrix_with_spectrum(np.geomspace(1, 1e-2, 32), 32, 32, rng())
    for dtype in ("bfloat16", "q4_1"):
        stored = matrices.store_as(weight, dtype)
        low, high = matrices.smallest_value_interval(weight, stored)
        assert low <= np.linalg.svd(stored, compute_uv=False)[-1] <= high
        assert low < 1e-2 < high


def test_bad_input_is_named():
    with pytest.raises(InputError, match="unknown storage 'int3'"):
        matrices.store_as([[1.0]], "int3")
    with pytest.raises(InputError, match="multiple of 32"):
        matrices.store_as(np.ones((2, 33)), "q4_1")
    with pytest.raises(InputError, match="float16 holds NaN or infinite"):
        matrices.store_as([[1e6]], "float16")
    with pytest.raises(InputError, match="3 singular values"):
        matrices.matrix_with_spectrum([1.0, 1.0, 1.0], 2, 5, rng())
    for kappa, k in ((0.5, 3), (2.0, 1), (2.0, 0)):
        with pytest.raises(InputError, match="κ ="):
            matrices.log_spaced_spectrum(kappa, k, 1.0)
    with pytest.raises(InputError, match="at least 1"):
        matrices.random_orthogonal(0, rng())
