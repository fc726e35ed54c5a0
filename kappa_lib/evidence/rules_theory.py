"""Rules for the claims of the paper's Sections 2 and 3; in words in ``data/claims.yaml``.

They are checked to rounding or sampling error, so they return a bare verdict. A counterexample
that is not found leaves a claim undecided, for nothing was shown.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf, log

from kappa_lib.evidence.verdicts import CORRECTED, FAILS, HOLDS, UNDECIDED, decides


def _holds(shown: bool, corrected: bool = False) -> str:
    """What a check says: the claim itself, else a corrected form of it, else neither."""
    return HOLDS if shown else CORRECTED if corrected else FAILS


def _counterexample(found: bool) -> str:
    return FAILS if found else UNDECIDED


def _one(kappas: Iterable[float], within: float = 1e-3) -> bool:
    return all(abs(kappa - 1) < within for kappa in kappas)


CHECKS = {
    # Scaling, rotating and transposing leave κ, to rounding.
    "kappa-invariant": lambda largest_change: _holds(largest_change < 1e-6),
    # Against a Monte Carlo average and a nearest-neighbour estimate.
    "gaussian-entropy": lambda closed, monte_carlo, standard_error, neighbours: _holds(
        abs(closed - monte_carlo) < 4 * standard_error and abs(closed - neighbours) < 0.05
    ),
    # Nearest-neighbour entropies of scaled samples, in nats off the shift by log c.
    "entropy-scaling": lambda scalar_error, vector_error: _holds(
        max(abs(scalar_error), abs(vector_error)) < 0.05
    ),
    # Largest entry off, as a share of the largest entry.
    "output-covariance": lambda deviation: _holds(deviation < 0.02),
    # The log-volume shifts by k log c, κ does not.
    "log-volume-scale": lambda shift, expected_shift, kappa_change: _holds(
        abs(shift - expected_shift) < 1e-6 and kappa_change < 1e-6
    ),
    # Half-axes of a sample ellipsoid against singular values, as a share.
    "anisotropy": lambda largest_deviation: _holds(largest_deviation < 0.02),
    # No random matrix passes the bound, and ascent ends at κ = 1.
    "theorem-1": lambda largest, best_random, ascent_kappas: _holds(
        best_random <= largest + 1e-9 and _one(ascent_kappas)
    ),
    # Symbolic algebra, and an optimiser on the sphere that does not use the Lagrangian.
    "lagrangian": lambda symbolic_residual, optimiser_kappas: _holds(
        symbolic_residual == 0 and _one(optimiser_kappas)
    ),
    # Rescaling and noise lower the entropy without teaching anything.
    "low-entropy-is-knowledge": lambda identity, rescaled, noise: _counterexample(
        rescaled < identity and noise < identity
    ),
    # A trained unit that solves its task at κ near 1, built to be a counterexample.
    "necessary": lambda kappa_trained, error_untrained, error_trained: _counterexample(
        kappa_trained < 1.5 and error_trained < 1e-3 * error_untrained
    ),
}
for _id, _rule in CHECKS.items():
    decides(_id)(_rule)


@decides("rank-collapse")
def rank_collapse(kappa_projection: float, rank: int, size: int) -> str:
    """Eq. (1) skips zeros, so it reads κ = 1 where the claim expects the extreme."""
    return FAILS if rank >= size else _holds(kappa_projection >= 1 + 1e-6, corrected=True)


@decides("determinant")
def determinant(wide_difference: float, tall_determinant: float) -> str:
    """True for full row rank; where rows outnumber columns the determinant is zero."""
    if abs(wide_difference) >= 1e-6:
        return FAILS
    return CORRECTED if abs(tall_determinant) < 1e-8 else HOLDS


@decides("output-entropy")
def output_entropy(full_rank_difference: float, image_difference: float) -> str:
    """Right at full row rank; below it the rank takes the place of m."""
    if abs(full_rank_difference) >= 0.05:
        return FAILS
    return CORRECTED if abs(image_difference) < 0.05 else HOLDS


@decides("information-equals-entropy")
def information_equals_entropy(
    entropy: float, rank: int, noises: Sequence[float], informations: Sequence[float]
) -> str:
    """As noise vanishes the information grows by rank × log of the noise, without bound."""
    (*_, big, small), (*_, before, after) = noises, informations
    growth = (after - before) / (rank * log(big / small))
    return _holds(not (growth > 0.99 and after > entropy))


@decides("convex-constraint")
def convex_constraint(
    energy: float, midpoint_energy: float, midpoint_sum: float, largest_curvature: float
) -> str:
    """A midpoint leaves the sphere; in squared singular values it stays on the simplex."""
    repaired = abs(midpoint_sum - energy) < 1e-9 and largest_curvature < 0
    return _holds(abs(midpoint_energy - energy) < 1e-9, repaired)


@decides("more-information-at-kappa-one")
def more_information(optimiser_kappas: Sequence[float]) -> str:
    """At every noise level; without noise the information of every spectrum is infinite."""
    return _holds(False, _one(optimiser_kappas, within=1e-2))


@decides("high-kappa-less-entropy")
def high_kappa_less_entropy(
    guaranteed_losses: Sequence[float],
    kappa_small: float,
    volume_small: float,
    kappa_large: float,
    volume_large: float,
) -> str:
    """The best case falls with κ; a pair of equal norm shows that κ does not order spectra."""
    if not all(after > before >= 0 for before, after in pairwise(guaranteed_losses)):
        return FAILS
    reversed_pair = kappa_large > kappa_small and volume_large > volume_small
    return CORRECTED if reversed_pair else HOLDS


@decides("selective-amplification")
def selective_amplification(
    kappa_strong: float, kappa_weak: float, information_strong: float, information_weak: float
) -> str:
    """The same spectrum, on the wrong directions, tells little of the class."""
    same = _one([kappa_strong / kappa_weak], within=1e-9)
    return _counterexample(same and information_weak < information_strong / 2)


@decides("not-sufficient")
def not_sufficient(
    kappa_untrained: float, kappa_trained: float, error_untrained: float, error_trained: float
) -> str:
    """An untrained unit with a far higher κ and error: an example settles it."""
    shown = kappa_untrained > 10 * kappa_trained and error_untrained > 100 * error_trained
    return HOLDS if shown else UNDECIDED


@decides("nonlinear-bound")
def nonlinear_bound(
    entropy_changes: Sequence[float],
    estimate_errors: Sequence[float],
    information_changes: Sequence[float],
    relu_entropy_change: float,
) -> str:
    """Entropy and information through four activations; ReLU's entropy is minus infinity."""
    bounded = max(entropy_changes) <= 0 and max(information_changes) <= 1e-6
    if not bounded or max(abs(error) for error in estimate_errors) >= 0.05:
        return FAILS
    return CORRECTED if relu_entropy_change == -inf else HOLDS


@decides("nonlinear-in-practice")
def nonlinear_in_practice(
    largest_slope: float, entropy_change: float, information_change: float, repaired_change: float
) -> str:
    """GELU's slope exceeds 1; the bound holds again times that slope."""
    broken = entropy_change > 0.02 and information_change > 0.01
    return _holds(largest_slope <= 1, broken and repaired_change <= 0)
