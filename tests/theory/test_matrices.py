import numpy as np
import pytest

from kappa_lib.errors import InputError
from kappa_lib.theory import theorem


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 3), (3, 8), (8, 3)])
def test_matrix_has_the_spectrum_it_was_given(shape):
    weight = theorem.matrix_with_spectrum([5.0, 1e-3], *shape, rng())
    assert weight.shape == shape
    assert np.linalg.svd(weight, compute_uv=False) == pytest.approx([5, 1e-3, 0], abs=1e-12)


def test_log_spaced_spectrum_has_its_kappa_energy_and_spacing():
    s = theorem.log_spaced_spectrum(1e4, 9, 2.0)
    assert s[0] / s[-1] == pytest.approx(1e4)
    assert float(s @ s) == pytest.approx(2.0)
    assert s[:-1] / s[1:] == pytest.approx(10 ** np.full(8, 0.5))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="3 singular values"):
        theorem.matrix_with_spectrum([1.0, 1.0, 1.0], 2, 5, rng())
    for kappa, k, said in ((0.5, 3, "κ ="), (2.0, 1, "κ ="), (2.0, 0, "rank k")):
        with pytest.raises(InputError, match=said):
            theorem.log_spaced_spectrum(kappa, k, 1.0)
