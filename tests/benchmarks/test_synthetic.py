"""Synthetic weights: orthogonal mixing, and spectra like trained ones."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from benchmarks import synthetic


def test_mixing_is_a_normalised_hadamard_matrix():
    mixed = synthetic.hadamard_mix(torch.eye(16)).numpy()
    np.testing.assert_allclose(mixed, hadamard(16) / 4, atol=1e-6)


def test_mixing_in_blocks_is_orthogonal():
    mixed = synthetic.hadamard_mix(torch.eye(24, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(mixed @ mixed.T, np.eye(24), atol=1e-12)


@pytest.mark.parametrize("shape", [(192, 64), (64, 192), (64, 64)])
def test_a_larger_decay_gives_a_larger_kappa(shape):
    kappas = [synthetic.kappa_of(synthetic.trained_like(*shape, d, 0)) for d in (0.0, 2.0, 4.0)]
    assert kappas == sorted(kappas)
    assert synthetic.trained_like(*shape, 1.0, 0).shape == shape
