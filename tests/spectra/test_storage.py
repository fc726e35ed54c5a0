"""Storage formats: error sizes, idempotence, and a hand-made case of survival."""

import numpy as np
import pandas as pd
import pytest
import torch

from kappa_lib.errors import InputError
from kappa_lib.spectra import storage

WEIGHT = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", storage.FORMATS)
def test_storing_twice_is_storing_once(form):
    once = storage.stored(WEIGHT, form)
    torch.testing.assert_close(storage.stored(once, form), once, rtol=1e-3, atol=1e-3)


def test_errors_are_those_of_the_formats():
    error = {f: (storage.stored(WEIGHT, f) - WEIGHT).abs().max().item() for f in storage.FORMATS}
    largest = WEIGHT.abs().max().item()
    assert error["fp32"] == 0
    assert 0 < error["bf16"] <= largest * 2**-8
    assert 0 < error["fp16"] <= largest * 2**-11
    assert 0 < error["8-bit (Q8_0)"] <= largest / 127
    assert error["8-bit (Q8_0)"] < error["4-bit (Q4_1)"] <= 2 * largest / 15


@pytest.mark.parametrize(("form", "bits"), [("fp32", 24), ("fp16", 11), ("bf16", 8)])
def test_float_storage_errs_by_half_a_unit_in_the_last_place(form, bits):
    weight = np.random.default_rng(0).uniform(0.5, 2, size=(64, 64))
    error = np.abs(storage.stored(weight, form).numpy() / weight - 1).max()
    assert 2.0 ** -(bits + 1) < error <= 2.0**-bits


def test_q4_1_has_sixteen_levels_a_run_and_errs_by_half_a_step():
    """Also beside the format's definition: codes between a minimum and a step in fp16."""
    weight = np.random.default_rng(0).standard_normal((4, 64))
    read = storage.stored(weight, "4-bit (Q4_1)").numpy()
    expected = []
    for run, original in zip(read.reshape(-1, 32), weight.reshape(-1, 32), strict=True):
        assert len(np.unique(run)) <= 16
        low, step = original.min(), np.ptp(original) / 15
        assert np.abs(run - original).max() <= 0.51 * step
        codes = np.round((original - low) / step)
        expected.append(float(np.float16(low)) + codes * float(np.float16(step)))
    # A code may differ where a weight sits between two levels.
    assert np.median(np.abs(read.reshape(-1, 32) - expected)) < 1e-6
    constant = storage.stored(np.full((1, 32), 0.25), "4-bit (Q4_1)")
    assert constant.numpy() == pytest.approx(0.25)


def test_study_measures_what_numpy_measures():
    table = storage.study([("w", WEIGHT)])
    assert table.loc["w", "fp32"] == pytest.approx(np.linalg.cond(WEIGHT.double().numpy()))
    expected = np.linalg.cond(WEIGHT.bfloat16().double().numpy())
    assert table.loc["w", "bf16"] == pytest.approx(expected)


def test_survival_of_a_known_case():
    kappas = pd.DataFrame({"fp32": [1.0, 2, 30, 40], "x": [2.0, 1, 35, 50]}, index=list("abcd"))
    found = storage.survival(kappas, dict(a="m", b="m", c="q", d="q"), 0.5).loc["x"]
    assert found["kept"] == 1.0
    assert found["spearman"] == pytest.approx(0.8)
    assert found["within_type"] == pytest.approx(0.0)
    assert found["change"] == pytest.approx((0.25 + 0.5) / 2)


def test_draw_before_rounding_is_rounded_back_to_what_is_stored():
    q4 = storage.stored(WEIGHT, "4-bit (Q4_1)")
    drawn = storage.before_rounding(q4, seed=1)
    runs = q4.reshape(-1, 32)
    step = ((runs.amax(1) - runs.amin(1)) / 15)[:, None]
    shift = (drawn.reshape(-1, 32) - runs) / step
    assert 0.45 < shift.abs().max() <= 0.5001
    assert shift.std().item() == pytest.approx(12**-0.5, rel=0.05)


def test_unusable_requests_are_refused():
    with pytest.raises(InputError, match="'2-bit'"):
        storage.stored(WEIGHT, "2-bit")
    with pytest.raises(InputError, match="runs of 32"):
        storage.stored(WEIGHT[:, :40], "4-bit (Q4_1)")
    with pytest.raises(InputError, match="fp16 holds NaN or infinite"):
        storage.stored(np.array([[1e6]]), "fp16")
