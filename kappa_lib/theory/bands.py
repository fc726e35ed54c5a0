"""What κ and the norm leave open: the attainable log-volume and mutual information, in nats.

All spectra below have k singular values, ratio σ₁/σ_k = κ and energy Σσᵢ² = C. In tᵢ = σᵢ² the
quantities are sums of a concave function, so for a fixed t_k = a the largest value has all other
tᵢ equal, and the smallest sits at a corner: every tᵢ is a or κ²a.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import softmax

from kappa_lib.errors import InputError
from kappa_lib.theory.checks import checked_rank, positive_number
from kappa_lib.theory.entropy import mutual_information
from kappa_lib.theory.theorem import stationary_spectrum

Spectrum = NDArray[np.float64]


def checked_case(kappa: float, energy: float, k: int) -> tuple[float, float, int]:
    """Return (κ, C, k) as numbers.

    Raises:
        InputError: κ < 1 or not finite, C <= 0, k < 1, or κ > 1 with a single singular value.
    """
    size = checked_rank(k)
    if not (math.isfinite(kappa) and kappa >= 1) or (size == 1 and kappa > 1):
        raise InputError(f"κ = {kappa} with k = {size}", "give a finite κ >= 1, and k >= 2 if > 1")
    return float(kappa), positive_number(energy, "energy"), size


def corner_spectrum(kappa: float, energy: float, k: int, high: int) -> Spectrum:
    """Spectrum with ``high`` values at σ₁ and the other k - high at σ₁/κ; shape (k,)."""
    kappa, energy, k = checked_case(kappa, energy, k)
    if k > 1 and not 1 <= high < k:
        raise InputError(f"{high} of {k} values at the top", "leave one at either end")
    shape = np.where(np.arange(k) < high, 1.0, 1 / kappa)
    return shape * math.sqrt(energy / float(shape @ shape))


def levelled_spectrum(kappa: float, energy: float, k: int, smallest: float) -> Spectrum:
    """Spectrum σ₁² = κ²a, σ_k² = a, and one common value for the k - 2 between; shape (k,).

    Args:
        kappa: κ >= 1.
        energy: C > 0.
        k: at least 2.
        smallest: a = σ_k², small enough that the common value is not below it.
    """
    rest = energy - smallest * (1 + kappa**2)
    middle = np.full(k - 2, rest / max(k - 2, 1))
    return np.sqrt(np.concatenate([[kappa**2 * smallest], middle, [smallest]]))


def largest_log_volume_spectrum(kappa: float, energy: float, k: int) -> Spectrum:
    """The spectrum of the band's upper end: a = 2C/(k(1+κ²)), the values between at C/k."""
    kappa, energy, k = checked_case(kappa, energy, k)
    if k == 1:
        return stationary_spectrum(energy, 1)
    return levelled_spectrum(kappa, energy, k, 2 * energy / (k * (1 + kappa**2)))


def log_volume_band(kappa: float, energy: float, k: int) -> tuple[float, float]:
    """Smallest and largest V = Σ log σᵢ, eq. (8), for a given κ, C and k.

    The upper end is (k/2) log(C/k) - log((κ + 1/κ)/2): Theorem 1's maximum less an amount that
    does not depend on k. The lower end is the smallest over the k - 1 corners.

    Args:
        kappa: κ >= 1.
        energy: C = Σσᵢ² > 0.
        k: number of singular values.

    Returns:
        (lower, upper) in nats.

    Raises:
        InputError: see :func:`checked_case`.
    """
    kappa, energy, k = checked_case(kappa, energy, k)
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
    """Smallest and largest I(X; WX + N) for a given κ, C and k.

    Args:
        kappa: κ >= 1.
        energy: C = Σσᵢ² > 0.
        k: number of singular values.
        sigma_x: standard deviation of each input, > 0.
        sigma_n: standard deviation of the noise, > 0.

    Returns:
        (lower, upper) in nats.
    """
    kappa, energy, k = checked_case(kappa, energy, k)
    if k == 1 or kappa == 1:
        only = mutual_information(stationary_spectrum(energy, k), sigma_x, sigma_n)
        return only, only
    corners = [
        mutual_information(corner_spectrum(kappa, energy, k, high), sigma_x, sigma_n)
        for high in range(1, k)
    ]
    ratio = (positive_number(sigma_x, "sigma_x") / positive_number(sigma_n, "sigma_n")) ** 2
    best = levelled_spectrum(kappa, energy, k, _best_smallest(kappa, energy, k, ratio))
    return min(corners), mutual_information(best, sigma_x, sigma_n)


def _best_smallest(kappa: float, energy: float, k: int, ratio: float) -> float:
    """a = σ_k² of the spectrum with the largest mutual information, ratio = σ_x²/σ_n²."""
    limit = energy / (1 + kappa**2)
    if k == 2:
        return limit

    def slope(a: float) -> float:
        middle = (energy - a * (1 + kappa**2)) / (k - 2)
        ends = 1 / (1 + ratio * a) + kappa**2 / (1 + ratio * kappa**2 * a)
        return ends - (1 + kappa**2) / (1 + ratio * middle)

    # Positive at 0, negative at the limit and falling between: exactly one root.
    return float(brentq(slope, 0.0, limit, xtol=1e-15 * limit, rtol=1e-14))


def random_spectrum(kappa: float, energy: float, k: int, rng: np.random.Generator) -> Spectrum:
    """A random spectrum with exactly this κ and energy, shape (k,), descending.

    The values between the ends are Beta-distributed in log σ, with parameters drawn anew for
    each spectrum, so that some pile up at an end and some in the middle.
    """
    kappa, energy, k = checked_case(kappa, energy, k)
    inner = rng.beta(*rng.lognormal(0, 1.5, 2), size=max(k - 2, 0))
    return _from_heights(inner, kappa, energy, k)


def _from_heights(inner: Spectrum, kappa: float, energy: float, k: int) -> Spectrum:
    """Heights in [0, 1] between log σ_k (0) and log σ₁ (1) to a spectrum of energy C."""
    heights = np.concatenate([[1.0], np.sort(inner)[::-1], [0.0]])[:k]
    shape = kappa ** (heights - 1)
    return shape * math.sqrt(energy / float(shape @ shape))


def free_maximum(
    quantity: Callable[[Spectrum], float], start: NDArray[np.float64], energy: float
) -> Spectrum:
    """Where a ``quantity`` is largest among all spectra of one energy, by SciPy's BFGS.

    Moves freely: tᵢ = C softmax(u)ᵢ turns any u into a spectrum on the constraint of eq. (9).

    Args:
        quantity: spectrum, shape (k,) -> number.
        start: u, shape (k,).
        energy: C > 0.

    Returns:
        The spectrum, shape (k,), in the order of ``start``.
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
    starts: int = 20,
) -> tuple[float, float]:
    """Smallest and largest value of any ``quantity`` of a spectrum, by SciPy's L-BFGS-B.

    Knows nothing of corners or levels: it moves the k - 2 inner values freely between the ends,
    from random starts. What :func:`log_volume_band` is checked against.

    Args:
        quantity: spectrum, shape (k,) descending -> number.
        kappa: κ >= 1.
        energy: C > 0.
        k: at least 3, else nothing is free.
        rng: source of the starts.
        starts: number of random starts for each end.
    """
    kappa, energy, k = checked_case(kappa, energy, k)
    ends = []
    for sign in (1.0, -1.0):
        runs = [
            minimize(
                lambda inner, sign=sign: sign * quantity(_from_heights(inner, kappa, energy, k)),
                rng.uniform(size=k - 2),
                method="L-BFGS-B",
                bounds=[(0, 1)] * (k - 2),
            )
            for _ in range(starts)
        ]
        ends.append(sign * min(float(run.fun) for run in runs))
    return ends[0], ends[1]
