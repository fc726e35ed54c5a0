"""Entropy and information of a linear unit on its real input, with and without a Gaussian.

W is (m, n) and Y = WX. A covariance is given or taken as float64. Everything is in nats.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kappa_lib.encoding.covariance import Moments
from kappa_lib.errors import InputError
from kappa_lib.theory.checks import nonzero_spectrum, positive_number
from kappa_lib.theory.entropy import LOG_2PI_E, knn_entropy

# Variance of the observation noise over the mean output power of a dimension: 20 dB.
NOISE = 0.01
COMPONENTS = 16
# Activations are computed in fp32: directions below this share of the largest output amplitude
# are its rounding, and count as zero.
INPUT_RTOL = 1e-6


def root_of_covariance(covariance: Tensor) -> Tensor:
    """The symmetric Σ^½, (n, n); eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def output_spectrum(weight: Tensor, root: Tensor) -> NDArray[np.float64]:
    """Singular values of WΣ_X^½, (min(m, n),), descending, from W (m, n) and Σ_X^½ (n, n)."""
    wide = weight.double() @ root
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0).sqrt().numpy()


def input_kappa(spectrum: ArrayLike) -> float:
    """κ of WΣ_X^½, eq. (1) on the directions the input has: above ``INPUT_RTOL`` of the largest."""
    values = nonzero_spectrum(spectrum, INPUT_RTOL)
    return float(values[0] / values[-1])


def noise_variance(spectrum: ArrayLike, noise: float = NOISE) -> float:
    """σ² = ``noise`` · tr(WΣ_XWᵀ)/k: relative to the mean power of the k output directions."""
    s = np.asarray(spectrum, dtype=np.float64)
    return positive_number(noise, "noise") * float(np.square(s).mean())


def gaussian_information(spectrum: ArrayLike, noise: float = NOISE) -> float:
    """I(X; WX + N) = ½ Σ log(1 + sᵢ²/σ²) of a Gaussian X at noise relative to the output's trace.

    Free of scale. What eq. (7) becomes with observation noise and a real covariance; s are the
    singular values of WΣ_X^½, or of W itself for an isotropic input.
    """
    s = np.asarray(spectrum, dtype=np.float64)
    return 0.5 * float(np.log1p(np.square(s) / noise_variance(s, noise)).sum())


def information_deficit(spectrum: ArrayLike, noise: float = NOISE) -> float:
    """What a flat spectrum of the same power would carry beyond this one, nats per direction.

    ½ log(1 + 1/noise) - I/k: zero when all output directions carry the same power, Theorem 1's
    maximum; the paper's "concentrated" encoding is a large deficit.
    """
    k = len(np.asarray(spectrum))
    return 0.5 * math.log1p(1.0 / noise) - gaussian_information(spectrum, noise) / k


def participation_ratio(powers: ArrayLike) -> float:
    """(Σλ)²/Σλ² of eigenvalues of a covariance, in [1, k] (Gao et al., bioRxiv 214262, 2017)."""
    values = np.asarray(powers, dtype=np.float64)
    if values.max() <= 0:
        raise InputError("no power in any direction", "give a covariance that is not zero")
    return float(values.sum() ** 2 / np.square(values).sum())


def principal_samples(
    weight: Tensor, inputs: Tensor, seed: int, components: int = COMPONENTS, noise: float = NOISE
) -> NDArray[np.float64]:
    """Outputs on their leading principal components, at unit mean power, seen through noise.

    Without the noise a token that occurs twice would give the same point twice (an atom) wherever
    the input knows nothing of its context.

    From W (m, n) and (samples, n) inputs; returns (samples, c) with c the ``components``, at most
    min(m, n), and total power c before noise is added. ``noise`` is its variance over the
    components' mean power.
    """
    outputs = inputs.double() @ weight.double().T
    outputs = outputs - outputs.mean(0)
    _, vectors = torch.linalg.eigh(outputs.T @ outputs)
    points = (outputs @ vectors[:, -min(components, *weight.shape) :]).numpy()
    points /= math.sqrt(float(np.square(points).mean()))
    random = np.random.default_rng(seed)
    return points + math.sqrt(noise) * random.standard_normal(points.shape)


def sample_entropies(points: ArrayLike) -> dict[str, float]:
    """The entropy of (samples, c) points that assumes no distribution, and the Gaussian one."""
    cloud = np.asarray(points)
    log_det = np.linalg.slogdet(np.cov(cloud, rowvar=False))[1]
    return {
        "knn_entropy": knn_entropy(cloud),
        "gaussian_16": 0.5 * float(cloud.shape[1] * LOG_2PI_E + log_det),
    }


def of_tensor(
    weight: Tensor, sigma: Tensor, root: Tensor, given: Moments, seed: int
) -> dict[str, float]:
    """Entropies and information of the output of W with singular values σ, on a given input.

    ``root`` is its Σ_X^½, (n, n); ``seed`` of the samples' observation noise.
    """
    real = output_spectrum(weight, root)
    return {
        "input_kappa": input_kappa(real),
        "deficit": information_deficit(real),
        "deficit_isotropic": information_deficit(sigma.numpy()),
        **sample_entropies(principal_samples(weight, given.sample, seed)),
    }
