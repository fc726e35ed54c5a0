"""The error bound against references that owe nothing to the solvers."""

import math
from unittest import mock

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from kappa_lib.errors import InputError
from kappa_lib.spectra import solvers
from kappa_lib.spectra.gram import SMALLEST
from kappa_lib.spectra.solvers import METHODS, TOLERANCE, decompose


@pytest.fixture(autouse=True, scope="module")
def ends_of_small_matrices():
    """Let ``extremes`` compute the ends alone at the small sizes of these tests."""
    with mock.patch.object(solvers, "EXTREMES_FROM", SMALLEST):
        yield


few = settings(derandomize=True, max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


def exact_matrix(log_size: int, bits: int, copies: int, seed: int) -> tuple[np.ndarray, float]:
    """An integer matrix whose singular values are known without computing: H D H, permuted.

    H is a Hadamard matrix and D holds integers, so every entry is an integer below 2⁵³ and the
    singular values are n times those of D, exactly; the smallest occurs ``copies`` times.
    """
    n = 2**log_size
    rng = np.random.default_rng(seed)
    middle = np.floor(2.0 ** rng.uniform(1, max(bits, 1.5), n - 2))
    d = np.concatenate([[1.0], np.minimum(middle, 2.0**bits), [2.0**bits]])
    d[:copies] = 1.0
    h = hadamard(n).astype(float)
    weight = (h * d) @ h
    assert np.abs(weight).max() < 2**53
    return weight[rng.permutation(n)], 2.0**bits


def assert_within_bound(weight, truth: float, method: str) -> None:
    found = decompose(weight, method)
    assert abs(found.kappa / truth - 1) <= found.kappa_error, (method, found)


@few
@given(log_size=st.integers(2, 8), bits=st.integers(0, 44), copies=st.integers(1, 3), seed=seeds)
@pytest.mark.parametrize("method", METHODS)
def test_bound_holds_where_the_truth_is_known_exactly(method, log_size, bits, copies, seed):
    weight, truth = exact_matrix(log_size, bits, copies, seed)
    assert_within_bound(weight, truth, method)


@few
@given(
    shape=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    exponent=st.floats(0, 14),
    seed=seeds,
)
def test_bound_holds_against_sixty_digits(shape, exponent, seed):
    rng = np.random.default_rng(seed)
    k = min(shape)
    left = np.linalg.qr(rng.standard_normal((shape[0], k)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], k)))[0]
    weight = (left * np.logspace(0, -exponent, k)) @ right.T
    with mpmath.workdps(60):
        s = mpmath.svd_r(mpmath.matrix(weight.tolist()), compute_uv=False)
        truth = float(max(s) / min(s))
    for method in METHODS:
        assert_within_bound(weight, truth, method)


@few
@given(exponent=st.floats(0, 6), rows=st.sampled_from([96, 130]), seed=seeds)
@pytest.mark.parametrize("method", ["auto", "extremes"])
def test_bound_holds_against_the_svd(method, exponent, rows, seed):
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((rows, 96)))[0]
    right = np.linalg.qr(rng.standard_normal((96, 96)))[0]
    weight = (left * np.logspace(0, -exponent, 96)) @ right.T
    found, reference = decompose(weight, method), decompose(weight, "svd")
    assert abs(found.kappa / reference.kappa - 1) <= found.kappa_error + reference.kappa_error


@pytest.mark.parametrize("method", ["auto", "extremes"])
@pytest.mark.parametrize("exponent", [1, 3, 5, 7])
def test_bound_is_useful_and_not_only_safe(method, exponent):
    rng = np.random.default_rng(exponent)
    q = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    assert decompose((q * np.logspace(0, -exponent, 128)) @ q, method).kappa_error <= TOLERANCE


def test_routes_follow_the_rule():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    methods = [decompose((q * np.logspace(0, -e, 128)) @ q).method for e in (1, 5, 9)]
    assert methods[0] == "gram (dsyrk, dsyevd)"
    assert methods[1] == "gram (dsyrk, dsyevd), refined"
    assert methods[2] == "svd (dgesdd)"


@pytest.mark.parametrize("shape", [(300, 80), (80, 300)])
def test_extremes_equal_the_ends_of_the_whole_spectrum(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    ends, whole = decompose(weight, "extremes"), decompose(weight, "svd")
    assert ends.values is None
    for name in ("sigma_max", "sigma_min", "kappa", "frobenius", "log_volume"):
        assert getattr(ends, name) == pytest.approx(getattr(whole, name), rel=1e-7), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", [1e-180, 1e180])
def test_squares_out_of_range_do_no_harm(method, unit):
    weight = np.random.default_rng(0).standard_normal((100, 70))
    plain, scaled = decompose(weight, method), decompose(weight * unit, method)
    assert scaled.kappa == pytest.approx(plain.kappa, rel=1e-9)
    assert scaled.sigma_max == pytest.approx(plain.sigma_max * unit, rel=1e-9)
    assert scaled.log_volume == pytest.approx(plain.log_volume + 70 * math.log(unit), rel=1e-9)


@pytest.mark.parametrize("method", ["auto", "extremes", "svd"])
def test_rank_deficiency_is_counted(method):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((90, 70)) @ rng.standard_normal((70, 80))
    found = decompose(weight, method)
    s = np.linalg.svd(weight, compute_uv=False)
    assert found.rank_deficiency == 10
    assert found.kappa == pytest.approx(s[0] / s[69], rel=1e-9)


def test_rank_that_can_not_be_told_has_no_bound():
    weight = np.diag([1.0, 1.0, 3 * np.finfo(float).eps])
    assert decompose(weight, "svd").kappa_error == math.inf


def test_unknown_method_is_refused():
    with pytest.raises(InputError, match="'qr'"):
        decompose(np.eye(2), "qr")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_equals_cpu(method):
    weight = np.random.default_rng(0).standard_normal((128, 128))
    gpu, cpu = decompose(weight, method, device="cuda"), decompose(weight, "svd")
    assert abs(gpu.kappa / cpu.kappa - 1) <= gpu.kappa_error + cpu.kappa_error


def test_work_side_by_side_comes_back_in_order_and_threads_as_they_were():
    before = torch.get_num_threads()
    seen = list(solvers.side_by_side(lambda n: (n, torch.get_num_threads()), iter(range(20))))
    assert seen == [(n, 1) for n in range(20)]
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        list(solvers.side_by_side(lambda n: 1 / n, [1, 0, 2]))
    assert torch.get_num_threads() == before


def test_side_by_side_gives_the_same_bits_on_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(200, 150, generator=generator) for _ in range(6)]
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append([s.values.tolist() for s in solvers.side_by_side(decompose, weights)])
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", METHODS)
def test_rescaled_rows_and_columns_divide_nothing_by_zero(method):
    """A Gram matrix of such has a Cholesky factor, whatever its eigenvalues have lost."""
    rng = np.random.default_rng(3)
    size = max(64, SMALLEST)
    rows, columns = 2.0 ** rng.integers(-9, 10, (2, size))
    weight = rows[:, None] * rng.normal(size=(size, size)) * columns
    truth = np.linalg.cond(weight)
    assert truth > 1e8
    with np.errstate(all="raise"):
        found = decompose(weight, method)
    assert abs(found.kappa / truth - 1) <= found.kappa_error + 1e-4
    assert found.kappa == pytest.approx(truth, rel=1e-4)
