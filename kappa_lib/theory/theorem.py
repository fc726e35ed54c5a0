"""The bands of log-volume and information that κ and the norm leave open; spectra made to order.

All in nats. ``energy`` is the paper's C = ‖W‖_F² = Σσᵢ² > 0, ``k`` the number of non-zero
singular values and ``kappa`` their ratio σ₁/σ_k. In tᵢ = σᵢ² the quantities of the bands are sums
of a concave function, so for a fixed t_k = a the largest value has all other tᵢ equal, and the
smallest sits at a corner: every tᵢ is a or κ²a.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import ortho_group

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import as_spectrum, nonzero_spectrum, positive_number
from kappa_lib.theory.entropy import mutual_information

Spectrum = NDArray[np.float64]


def with_energy(s: ArrayLike, energy: float) -> Spectrum:
    """Scale a spectrum onto the constraint of eq. (9), Σσᵢ² = C; (k,), descending."""
    return _scaled(nonzero_spectrum(s), positive_number(energy, "energy"))


def _scaled(shape: Spectrum, energy: float) -> Spectrum:
    return shape * math.sqrt(energy / float(shape @ shape))


def am_gm_gap(s: ArrayLike) -> float:
    """What a spectrum's non-zero values lack of the largest log-volume at their norm and rank.

    (k/2) log(mean σᵢ²) - Σ log σᵢ: the logarithm of arithmetic over geometric mean of the σᵢ²,
    times k/2. Never negative, and zero only when all σᵢ are equal (κ = 1).
    """
    positive = nonzero_spectrum(s)
    # Divided by the largest first: the squares of extreme values would leave the float range.
    ratio = positive / positive[0]
    gap = positive.size / 2 * math.log(float(np.mean(ratio**2))) - float(np.log(ratio).sum())
    return max(gap, 0.0)


def _checked_case(kappa: float, energy: float, k: int) -> tuple[float, float, int]:
    """κ, C and k as numbers; InputError unless κ >= 1 is finite (and 1 where k = 1) and C > 0."""
    if int(k) != k or k < 1:
        raise InputError(f"rank k is {k!r}", "give a whole number of at least 1")
    if not (math.isfinite(kappa) and kappa >= 1) or (k == 1 and kappa > 1):
        raise InputError(f"κ = {kappa} with k = {k}", "give a finite κ >= 1, and k >= 2 if > 1")
    return float(kappa), positive_number(energy, "energy"), int(k)


def log_spaced_spectrum(kappa: float, k: int, energy: float) -> Spectrum:
    """k singular values, evenly spaced in log, with σ₁/σ_k = κ and Σσᵢ² = C; descending."""
    kappa, energy, k = _checked_case(kappa, energy, k)
    return _scaled(np.logspace(0.0, -math.log10(kappa), k), energy)


def corner_spectrum(kappa: float, energy: float, k: int, high: int) -> Spectrum:
    """Spectrum with ``high`` values at σ₁ and the other k - high at σ₁/κ, (k,)."""
    kappa, energy, k = _checked_case(kappa, energy, k)
    if k > 1 and not 1 <= high < k:
        raise InputError(f"{high} of {k} values at the top", "leave one at either end")
    return _scaled(np.where(np.arange(k) < high, 1.0, 1 / kappa), energy)


def log_volume_band(kappa: float, energy: float, k: int) -> tuple[float, float]:
    """Smallest and largest V = Σ log σᵢ, eq. (8), for a given κ, C and k.

    The upper end, all between at t = C/k, is (k/2) log(C/k) - log((κ + 1/κ)/2):
    Theorem 1's maximum less an amount that does not depend on k. The lower end is the smallest
    over the k - 1 corners. InputError at κ < 1 or not finite, C <= 0, k < 1, or κ > 1 with k = 1.
    """
    kappa, energy, k = _checked_case(kappa, energy, k)
    top = k / 2 * math.log(energy / k)
    if k == 1:
        return top, top
    high = np.arange(1, k)
    smallest = energy / (high * kappa**2 + k - high)
    corners = k / 2 * np.log(smallest) + high * math.log(kappa)
    return float(corners.min()), top - math.log((kappa + 1 / kappa) / 2)


def mutual_information_band(
    kappa: float, energy: float, k: int, sigma_x: float = 1.0, sigma_n: float = 1.0
) -> tuple[float, float]:
    """Smallest and largest I(X; WX + N) for a given κ, C and k; errors as the band above."""
    kappa, energy, k = _checked_case(kappa, energy, k)
    if k == 1 or kappa == 1:
        only = mutual_information(np.full(k, math.sqrt(energy / k)), sigma_x, sigma_n)
        return only, only
    corners = [
        mutual_information(corner_spectrum(kappa, energy, k, high), sigma_x, sigma_n)
        for high in range(1, k)
    ]
    ratio = (sigma_x / sigma_n) ** 2

    def slope(a: float) -> float:
        """Of the information over a = σ_k², with one common value between the ends."""
        middle = (energy - a * (1 + kappa**2)) / (k - 2)
        ends = 1 / (1 + ratio * a) + kappa**2 / (1 + ratio * kappa**2 * a)
        return ends - (1 + kappa**2) / (1 + ratio * middle)

    smallest = energy / (1 + kappa**2)
    if k > 2:  # the slope is positive at 0, negative here and falls between: exactly one root
        smallest = brentq(slope, 0.0, smallest, xtol=1e-15 * smallest, rtol=1e-14)
    middle = np.full(k - 2, (energy - smallest * (1 + kappa**2)) / max(k - 2, 1))
    best = np.sqrt(np.concatenate([[kappa**2 * smallest], middle, [smallest]]))
    return min(corners), mutual_information(best, sigma_x, sigma_n)


def spectrum_between(inner: ArrayLike, kappa: float, energy: float) -> Spectrum:
    """Spectrum with this κ and energy, descending, from the k - 2 ``inner`` values.

    These are heights in [0, 1] between log σ_k (0) and log σ₁ (1), in any order.
    """
    heights = np.concatenate([[1.0], np.sort(inner)[::-1], [0.0]])
    return _scaled(kappa ** (heights - 1), energy)


def matrix_with_spectrum(
    s: ArrayLike, rows: int, cols: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """W = U diag(s) Vᵀ, (rows, cols), with random orthogonal U and V; values not given are zero."""
    values = as_spectrum(s)
    if values.size > min(rows, cols):
        what = f"{values.size} singular values for a {rows}×{cols} matrix"
        raise InputError(what, "give at most min(m, n)")
    left, right = (ortho_group.rvs(n, random_state=rng)[:, : values.size] for n in (rows, cols))
    return (left * values) @ right.T
