"""Theorem 1: the log-volume at fixed Frobenius norm, eqs. (8)-(12), in nats.

``energy`` is the paper's C = ‖W‖_F² = Σσᵢ², and k the number of non-zero singular values.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import checked_rank, nonzero_spectrum, positive_number
from kappa_lib.theory.entropy import LOG_2PI_E


def with_energy(s: ArrayLike, energy: float) -> NDArray[np.float64]:
    """Scale a spectrum onto the constraint of eq. (9), Σσᵢ² = C; shape (k,), descending.

    Args:
        s: singular values, shape (k,); their ratios are kept.
        energy: C > 0.
    """
    positive = nonzero_spectrum(s)
    return positive * math.sqrt(positive_number(energy, "energy") / float(positive @ positive))


def lagrangian(s: ArrayLike, multiplier: float, energy: float) -> float:
    """Eq. (10): L(σ, λ) = Σ log σᵢ - λ (Σσᵢ² - C), in nats.

    Args:
        s: positive singular values, shape (k,).
        multiplier: λ, in nats per unit of energy.
        energy: C > 0.
    """
    positive = nonzero_spectrum(s)
    excess = float(positive @ positive) - positive_number(energy, "energy")
    return float(np.log(positive).sum()) - multiplier * excess


def lagrangian_gradient(s: ArrayLike, multiplier: float) -> NDArray[np.float64]:
    """Eq. (11): ∂L/∂σᵢ = 1/σᵢ - 2λσᵢ, shape (k,); zero at the stationary point.

    Args:
        s: positive singular values, shape (k,), in the order of the result (descending).
        multiplier: λ.
    """
    positive = nonzero_spectrum(s)
    return 1 / positive - 2 * multiplier * positive


def stationary_spectrum(energy: float, k: int) -> NDArray[np.float64]:
    """Eq. (12): σᵢ = sqrt(1/(2λ)) = sqrt(C/k) for every i, shape (k,).

    Args:
        energy: C > 0.
        k: rank.
    """
    return np.full(checked_rank(k), math.sqrt(positive_number(energy, "energy") / k))


def stationary_multiplier(energy: float, k: int) -> float:
    """λ = k / (2C), which makes eq. (12) meet the constraint of eq. (9)."""
    return checked_rank(k) / (2 * positive_number(energy, "energy"))


def largest_log_volume(energy: float, k: int) -> float:
    """(k/2) log(C/k): the log-volume of eq. (8) at σᵢ = sqrt(C/k), in nats."""
    return checked_rank(k) / 2 * math.log(positive_number(energy, "energy") / k)


def largest_linear_entropy(energy: float, k: int, sigma_x: float = 1.0) -> float:
    """Theorem 1's value: (k/2) log(2πe σ_x² C/k), in nats.

    Args:
        energy: C > 0.
        k: rank.
        sigma_x: standard deviation of each input, > 0.
    """
    log_variance = 2 * math.log(positive_number(sigma_x, "sigma_x"))
    return checked_rank(k) / 2 * (LOG_2PI_E + log_variance) + largest_log_volume(energy, k)


def am_gm_gap(s: ArrayLike) -> float:
    """What a spectrum lacks of the largest log-volume at its own norm and rank, in nats.

    (k/2) log(mean σᵢ²) - Σ log σᵢ: the logarithm of arithmetic over geometric mean of the σᵢ²,
    times k/2. Never negative, and zero only when all σᵢ are equal (κ = 1).

    Args:
        s: singular values, shape (r,); zeros are left out.
    """
    positive = nonzero_spectrum(s)
    # Divided by the largest first: the squares of extreme values would leave the float range.
    ratio = positive / positive[0]
    gap = positive.size / 2 * math.log(float(np.mean(ratio**2))) - float(np.log(ratio).sum())
    return max(gap, 0.0)


def ascend_log_volume(
    start: ArrayLike, energy: float, steps: int = 400, rate: float = 0.2
) -> NDArray[np.float64]:
    """Projected gradient ascent of the log-volume on the simplex Σtᵢ = C, tᵢ = σᵢ².

    Knows nothing of eq. (12): the gradient of 1/2 Σ log tᵢ loses its mean, which keeps Σtᵢ, and
    a step is cut so that no tᵢ shrinks by more than a tenth.

    Args:
        start: positive singular values, shape (k,), any order; rescaled to the energy first.
        energy: C > 0.
        steps: number of steps.
        rate: step length in units of (C/k)², the inverse curvature at the maximum (over 2).

    Returns:
        The spectra on the way, shape (steps + 1, k), each in the order of ``start``.

    Raises:
        InputError: a zero in ``start``: the gradient is infinite there.
    """
    s = np.asarray(start, dtype=np.float64)
    if nonzero_spectrum(s, rtol=0.0).size < s.size:
        raise InputError("the start has a zero singular value", "start from positive values")
    t = s**2 * (positive_number(energy, "energy") / float(s @ s))
    step = positive_number(rate, "rate") * (energy / t.size) ** 2
    path = [np.sqrt(t)]
    for _ in range(steps):
        gradient = 0.5 / t
        move = step * (gradient - gradient.mean())
        shrink = float(np.max(-move / t, initial=0.0))
        t = t + move * min(1.0, 0.1 / shrink if shrink > 0 else 1.0)
        path.append(np.sqrt(t))
    return np.array(path)
