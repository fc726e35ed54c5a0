"""The real input of linear units, and entropy and information of what they make of it.

W is (m, n) and Y = WX. A covariance is given or taken as float64. Everything is in nats.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from kappa_lib.theory.checks import nonzero_spectrum
from kappa_lib.theory.entropy import LOG_2PI_E, knn_entropy

# Variance of the observation noise over the mean output power of a dimension: 20 dB.
NOISE = 0.01
COMPONENTS = 16
SAMPLE = 2048
# Activations are computed in fp32: directions below this share of the largest output amplitude
# are its rounding, and count as zero.
INPUT_RTOL = 1e-6


class Moments:
    """Streaming first and second moment of vectors (n,), accumulated in float64."""

    def __init__(self, width: int, every: int = 1) -> None:
        self.count, self.every = 0, every
        self._total = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)
        self._kept: list[Tensor] = []

    def add(self, vectors: Tensor) -> None:
        """Take in (count, n) vectors."""
        wide = vectors.double()
        self._kept.append(vectors[-self.count % self.every :: self.every].clone())
        self.count += len(wide)
        self._total += wide.sum(0)
        self._products += wide.T @ wide

    @property
    def mean(self) -> Tensor:
        """(n,) mean."""
        return self._total / self.count

    @property
    def second(self) -> Tensor:
        """(n, n) second moment E xxᵀ, not centred."""
        return self._products / self.count

    @property
    def covariance(self) -> Tensor:
        """(n, n) covariance Σ_X, with division by the count."""
        return self.second - torch.outer(self.mean, self.mean)

    @property
    def sample(self) -> Tensor:
        """(kept, n) every ``every``-th vector."""
        return torch.cat(self._kept)


@torch.inference_mode()
def input_moments(
    llm: PreTrainedModel, inputs: Sequence[Mapping[str, Tensor]], layers: Collection[int]
) -> Iterator[tuple[int, dict[str, Moments]]]:
    """Moments of the inputs of every ``nn.Linear`` in some decoder layers, one after the other.

    At any time the hidden states between two layers are in memory, and what one batch makes of
    them inside one layer. ``inputs`` are those of :class:`kappa_lib.encoding.damage.Batch`; about
    ``SAMPLE`` input vectors are kept, spread evenly over the positions.

    Yields:
        Number of the layer; path in it → moments. Paths with the same input share one object.
    """
    decoder = llm.get_decoder()
    positions = sum(next(iter(given.values())).shape[:2].numel() for given in inputs)
    every = max(1, positions // SAMPLE)
    calls = [_calls(decoder, given) for given in inputs]
    hidden = [call[0][0] for call in calls]
    seen: dict[str, Tensor] = {}
    for number in range(max(layers) + 1):
        layer, moments = decoder.layers[number], {}
        with ExitStack() as hooks:
            for path, part in layer.named_modules():
                if isinstance(part, nn.Linear):
                    note = part.register_forward_pre_hook(
                        lambda _, x, at=path: seen.update({at: x[0]})
                    )
                    hooks.enter_context(note)
            for place, call in enumerate(calls):
                seen.clear()
                _, args, options = call[number]
                out = layer(hidden[place], *args, **options)
                hidden[place] = out[0] if isinstance(out, tuple) else out
                if number in layers:
                    _add(moments, seen, every)
        if number in layers:
            yield number, moments


def _calls(decoder: nn.Module, given: Mapping[str, Tensor]) -> list[tuple[Any, tuple, dict]]:
    """What the decoder calls each layer with: what enters the first one, positions and masks.

    The model itself makes them, so that this holds for any decoder; no layer computes anything.
    """
    calls = []

    def note(hidden: Tensor, *args: Any, **options: Any) -> Tensor:
        calls.append((hidden, args, options))
        return hidden

    try:
        for layer in decoder.layers:
            layer.forward = note
        decoder(**given, use_cache=False)
    finally:
        for layer in decoder.layers:
            vars(layer).pop("forward", None)
    return calls


def _add(moments: dict[str, Moments], seen: Mapping[str, Tensor], every: int) -> None:
    """Take in one batch's inputs by path; the same tensor at two paths counts once."""
    first: dict[int, str] = {}
    for path, tensor in seen.items():
        known = first.setdefault(id(tensor), path)
        if known == path:
            vectors = tensor.flatten(0, -2)
            moments.setdefault(path, Moments(vectors.shape[1], every)).add(vectors)
        else:
            moments[path] = moments[known]


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


def gaussian_information(spectrum: ArrayLike) -> float:
    """I(X; WX + N) = ½ Σ log(1 + sᵢ²/σ²) of a Gaussian X at noise relative to the output's trace.

    Free of scale: σ² is ``NOISE`` times the mean power of the output's directions. What eq. (7)
    becomes with observation noise and a real covariance; s are the singular values of WΣ_X^½, or
    of W itself for an isotropic input.
    """
    powers = np.square(np.asarray(spectrum, dtype=np.float64))
    return 0.5 * float(np.log1p(powers / (NOISE * float(powers.mean()))).sum())


def information_deficit(spectrum: ArrayLike) -> float:
    """What a flat spectrum of the same power would carry beyond this one, nats per direction.

    ½ log(1 + 1/NOISE) - I/k: zero when all output directions carry the same power, Theorem 1's
    maximum; the paper's "concentrated" encoding is a large deficit.
    """
    k = len(np.asarray(spectrum))
    return 0.5 * math.log1p(1.0 / NOISE) - gaussian_information(spectrum) / k


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
