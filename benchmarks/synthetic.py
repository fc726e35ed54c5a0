"""Large random matrices with the spectrum of trained ones.

W = G D H: a Gaussian G, column scales D that fall off as trained spectra do, and an orthogonal
mixing H (signs and a fast Walsh-Hadamard transform), so that no axis is special. Making one costs
a few passes over it, where a matrix of exact spectrum would cost two QR factorisations.
"""

import math

import numpy as np
import torch

# Fall-off exp(-decay·x) over the relative index x, by module type, such that at the default
# model's sizes κ comes near the default model's medians (about 1e4 for q and o, 6 to 30 else).
DECAY = {"q_proj": 4.0, "o_proj": 3.0, "k_proj": 3.0, "v_proj": 1.0}
MLP_DECAY = 2.4
# The standard deviation of trained weights of this size, in order of magnitude.
_SCALE = 0.02


def hadamard_mix(matrix: torch.Tensor) -> torch.Tensor:
    """Rows times an orthogonal Walsh-Hadamard matrix, in place; columns in the largest 2ⁿ blocks.

    Of (rows, b·2ⁿ) each of the b blocks of columns is mixed within itself.
    """
    rows, cols = matrix.shape
    block = cols & -cols
    width = 1
    while width < block:
        pairs = matrix.view(rows, cols // (2 * width), 2, width)
        first = pairs[:, :, 0].clone()
        pairs[:, :, 0] += pairs[:, :, 1]
        torch.sub(first, pairs[:, :, 1], out=pairs[:, :, 1])
        width *= 2
    return matrix.mul_(1.0 / math.sqrt(block))


def trained_like(rows: int, cols: int, decay: float, seed: int) -> torch.Tensor:
    """A bf16 matrix (rows, cols) with a smoothly falling spectrum.

    ``decay`` is the natural logarithm of the first column scale over the last.
    """
    k, n = min(rows, cols), max(rows, cols)
    generator = torch.Generator().manual_seed(seed)
    tall = torch.randn(n, k, generator=generator)
    signs = torch.randint(0, 2, (k,), generator=generator) * 2.0 - 1.0
    tall *= signs * torch.exp(-decay * torch.arange(k) / k)
    mixed = hadamard_mix(tall).mul_(_SCALE).bfloat16()
    return mixed if rows >= cols else mixed.T.contiguous()


def decay_of(module: str) -> float:
    """Fall-off used for a module path such as ``self_attn.q_proj``."""
    return DECAY.get(module.rsplit(".", 1)[-1], MLP_DECAY)


def kappa_of(weight: torch.Tensor) -> float:
    """κ by a float64 SVD, the benchmark's reference."""
    return float(np.linalg.cond(weight.double().cpu().numpy()))
