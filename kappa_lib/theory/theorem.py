"""Theorem 1, eqs. (8)-(12), the bands that κ and the norm leave open, matrices made to a spectrum.

All in nats. ``energy`` is the paper's C = ‖W‖_F² = Σσᵢ² > 0, ``k`` the number of non-zero
singular values and ``kappa`` their ratio σ₁/σ_k. In tᵢ = σᵢ² the quantities of the bands are sums
of a concave function, so for a fixed t_k = a the largest value has all other tᵢ equal, and the
smallest sits at a corner: every tᵢ is a or κ²a.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize
from scipy.special import softmax
from scipy.stats import ortho_group

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import (
    as_spectrum,
    checked_matrix,
    checked_rank,
    nonzero_spectrum,
    positive_number,
)
from kappa_lib.theory.entropy import LOG_2PI_E, mutual_information

Spectrum = NDArray[np.float64]


def with_energy(s: ArrayLike, energy: float) -> Spectrum:
    """Scale a spectrum onto the constraint of eq. (9), Σσᵢ² = C; (k,), descending."""
    return _scaled(nonzero_spectrum(s), positive_number(energy, "energy"))


def _scaled(shape: Spectrum, energy: float) -> Spectrum:
    return shape * math.sqrt(energy / float(shape @ shape))


def lagrangian(s: ArrayLike, multiplier: float, energy: float) -> float:
    """Eq. (10): L(σ, λ) = Σ log σᵢ - λ (Σσᵢ² - C), λ in nats per unit of energy."""
    positive = nonzero_spectrum(s)
    excess = float(positive @ positive) - positive_number(energy, "energy")
    return float(np.log(positive).sum()) - multiplier * excess


def lagrangian_gradient(s: ArrayLike, multiplier: float) -> Spectrum:
    """Eq. (11): ∂L/∂σᵢ = 1/σᵢ - 2λσᵢ, (k,), σ descending; zero at the stationary point."""
    positive = nonzero_spectrum(s)
    return 1 / positive - 2 * multiplier * positive


def stationary_spectrum(energy: float, k: int) -> Spectrum:
    """Eq. (12): σᵢ = sqrt(1/(2λ)) = sqrt(C/k) for every i, (k,)."""
    return np.full(checked_rank(k), math.sqrt(positive_number(energy, "energy") / k))


def stationary_multiplier(energy: float, k: int) -> float:
    """λ = k / (2C), which makes eq. (12) meet the constraint of eq. (9)."""
    return checked_rank(k) / (2 * positive_number(energy, "energy"))


def largest_log_volume(energy: float, k: int) -> float:
    """(k/2) log(C/k): the log-volume of eq. (8) at σᵢ = sqrt(C/k)."""
    return checked_rank(k) / 2 * math.log(positive_number(energy, "energy") / k)


def largest_linear_entropy(energy: float, k: int, sigma_x: float = 1.0) -> float:
    """Theorem 1's value: (k/2) log(2πe σ_x² C/k)."""
    log_variance = 2 * math.log(positive_number(sigma_x, "sigma_x"))
    return checked_rank(k) / 2 * (LOG_2PI_E + log_variance) + largest_log_volume(energy, k)


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


def ascend_log_volume(start: ArrayLike, energy: float) -> NDArray[np.float64]:
    """Projected gradient ascent of the log-volume on the simplex Σtᵢ = C, tᵢ = σᵢ².

    Knows nothing of eq. (12): the gradient of 1/2 Σ log tᵢ loses its mean, which keeps Σtᵢ, and
    a step is cut so that no tᵢ shrinks by more than a tenth. ``start`` holds positive singular
    values, (k,), which are rescaled to the energy first; at a zero the gradient is infinite
    (InputError). Returns the spectra on the way, (401, k), each in the order of ``start``.
    """
    s = as_spectrum(start)
    if s.min() == 0:
        raise InputError("the start has a zero singular value", "start from positive values")
    t = s**2 * (positive_number(energy, "energy") / float(s @ s))
    step = 0.2 * (energy / t.size) ** 2  # a tenth of the inverse curvature at the maximum
    path = [np.sqrt(t)]
    for _ in range(400):
        gradient = 0.5 / t
        move = step * (gradient - gradient.mean())
        shrink = float(np.max(-move / t, initial=0.0))
        t = t + move * min(1.0, 0.1 / shrink if shrink > 0 else 1.0)
        path.append(np.sqrt(t))
    return np.array(path)


def _checked_case(kappa: float, energy: float, k: int) -> tuple[float, float, int]:
    """κ, C and k as numbers; InputError unless κ >= 1 is finite (and 1 where k = 1) and C > 0."""
    size = checked_rank(k)
    if not (math.isfinite(kappa) and kappa >= 1) or (size == 1 and kappa > 1):
        raise InputError(f"κ = {kappa} with k = {size}", "give a finite κ >= 1, and k >= 2 if > 1")
    return float(kappa), positive_number(energy, "energy"), size


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


def _levelled_spectrum(kappa: float, energy: float, k: int, smallest: float) -> Spectrum:
    """σ₁² = κ²a, σ_k² = a = ``smallest``, and one common value for the k - 2 between."""
    rest = energy - smallest * (1 + kappa**2)
    middle = np.full(k - 2, rest / max(k - 2, 1))
    return np.sqrt(np.concatenate([[kappa**2 * smallest], middle, [smallest]]))


def largest_log_volume_spectrum(kappa: float, energy: float, k: int) -> Spectrum:
    """The spectrum of the band's upper end: a = 2C/(k(1+κ²)), the values between at C/k."""
    kappa, energy, k = _checked_case(kappa, energy, k)
    if k == 1:
        return stationary_spectrum(energy, 1)
    return _levelled_spectrum(kappa, energy, k, 2 * energy / (k * (1 + kappa**2)))


def log_volume_band(kappa: float, energy: float, k: int) -> tuple[float, float]:
    """Smallest and largest V = Σ log σᵢ, eq. (8), for a given κ, C and k.

    The upper end is (k/2) log(C/k) - log((κ + 1/κ)/2): Theorem 1's maximum less an amount that
    does not depend on k. The lower end is the smallest over the k - 1 corners. InputError at
    κ < 1 or not finite, C <= 0, k < 1, or κ > 1 with a single singular value.
    """
    kappa, energy, k = _checked_case(kappa, energy, k)
    top = largest_log_volume(energy, k)
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
        only = mutual_information(stationary_spectrum(energy, k), sigma_x, sigma_n)
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
    best = _levelled_spectrum(kappa, energy, k, smallest)
    return min(corners), mutual_information(best, sigma_x, sigma_n)


def random_spectrum(kappa: float, energy: float, k: int, rng: np.random.Generator) -> Spectrum:
    """A random spectrum with exactly this κ and energy, (k,), descending.

    The values between the ends are Beta-distributed in log σ, with parameters drawn anew for
    each spectrum, so that some pile up at an end and some in the middle.
    """
    kappa, energy, k = _checked_case(kappa, energy, k)
    inner = rng.beta(*rng.lognormal(0, 1.5, 2), size=max(k - 2, 0))
    return _from_heights(inner, kappa, energy, k)


def _from_heights(inner: Spectrum, kappa: float, energy: float, k: int) -> Spectrum:
    """Heights in [0, 1] between log σ_k (0) and log σ₁ (1) to a spectrum of energy C."""
    heights = np.concatenate([[1.0], np.sort(inner)[::-1], [0.0]])[:k]
    return _scaled(kappa ** (heights - 1), energy)


def free_maximum(
    quantity: Callable[[Spectrum], float], start: NDArray[np.float64], energy: float
) -> Spectrum:
    """Where a ``quantity`` is largest among all spectra (k,) of one energy, by SciPy's BFGS.

    Moves freely: tᵢ = C softmax(u)ᵢ turns any u (k,), ``start`` first, into a spectrum on the
    constraint of eq. (9).
    """
    total = positive_number(energy, "energy")

    def spectrum(u: NDArray[np.float64]) -> Spectrum:
        return np.sqrt(total * softmax(u))

    # Differences between spectra can be small against the value itself (much noise): measure
    # them from the start and in units of its distance to the flat spectrum.
    origin = quantity(spectrum(np.asarray(start, dtype=np.float64)))
    unit = abs(quantity(spectrum(np.zeros(len(start)))) - origin) or 1.0
    found = minimize(lambda u: (origin - quantity(spectrum(u))) / unit, start)
    return spectrum(found.x)


def search_band(
    quantity: Callable[[Spectrum], float],
    kappa: float,
    energy: float,
    k: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Smallest and largest value of a ``quantity`` of descending spectra, by SciPy's L-BFGS-B.

    Knows nothing of corners or levels: from 20 random starts it moves the k - 2 >= 1 inner values
    freely between the ends. What :func:`log_volume_band` is checked against.
    """
    kappa, energy, k = _checked_case(kappa, energy, k)
    ends = []
    for sign in (1.0, -1.0):
        runs = [
            minimize(
                lambda inner, sign=sign: sign * quantity(_from_heights(inner, kappa, energy, k)),
                rng.uniform(size=k - 2),
                method="L-BFGS-B",
                bounds=[(0, 1)] * (k - 2),
            )
            for _ in range(20)
        ]
        ends.append(sign * min(float(run.fun) for run in runs))
    return ends[0], ends[1]


def random_orthogonal(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Orthogonal matrix (size, size), uniform over the orthogonal group (Mezzadri 2007)."""
    if size < 1:
        raise InputError(f"size {size} of an orthogonal matrix", "give at least 1")
    return ortho_group.rvs(size, random_state=rng)


def matrix_with_spectrum(
    s: ArrayLike, rows: int, cols: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """W = U diag(s) Vᵀ, (rows, cols), with random orthogonal U and V; values not given are zero."""
    values = as_spectrum(s)
    if values.size > min(rows, cols):
        what = f"{values.size} singular values for a {rows}×{cols} matrix"
        raise InputError(what, "give at most min(m, n)")
    left = random_orthogonal(rows, rng)[:, : values.size]
    return (left * values) @ random_orthogonal(cols, rng)[:, : values.size].T


def smallest_value_interval(weight: ArrayLike, stored: ArrayLike) -> tuple[float, float]:
    """Where the smallest singular value of W (m, n) as ``stored`` can be, by Weyl's inequality.

    |σ_k(W + E) - σ_k(W)| <= ‖E‖₂ with E the rounding error, so the interval, cut at zero, has
    half-width ‖E‖₂.
    """
    exact, rounded = checked_matrix(weight), checked_matrix(stored, "stored weight")
    smallest = float(np.linalg.svd(exact, compute_uv=False)[-1])
    error = float(np.linalg.norm(rounded - exact, 2))
    return max(0.0, smallest - error), smallest + error
