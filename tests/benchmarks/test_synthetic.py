"""Synthetic weights: orthogonal mixing, spectra like trained ones, readable checkpoints."""

import numpy as np
import pytest
import tiny
import torch
from scipy.linalg import hadamard

from benchmarks import synthetic
from kappa_lib.errors import SpaceError

SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (8, 32), "mlp.up_proj": (96, 32)}


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


def test_checkpoint_has_the_named_tensors_and_does_not_repeat_itself(tmp_path):
    names = list(synthetic.write_checkpoint(tmp_path, SHAPES, 2, 40))
    assert names[-1] == "model-00003-of-00003.safetensors"
    found = {name: tensor for name, (tensor, _) in tiny.read_all(tmp_path).items()}
    assert len(found) == 2 * len(SHAPES) + 2
    assert found["lm_head.weight"].shape == (40, 32)
    first, second = (found[f"model.layers.{i}.self_attn.q_proj.weight"] for i in (0, 1))
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, second)


def test_no_room_is_noticed_before_anything_is_written(tmp_path):
    with pytest.raises(SpaceError):
        next(synthetic.write_checkpoint(tmp_path / "x", {"self_attn.q_proj": (10**9, 10**6)}, 1, 1))
    assert not (tmp_path / "x").exists()
