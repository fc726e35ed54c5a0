"""Rules for the claims of the paper's Sections 2 and 3; in words in ``data/claims.yaml``.

They are checked to rounding or sampling error, so most return a bare verdict. A counterexample
that is not found leaves a claim undecided, for nothing was shown.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from kappa_lib.evidence.verdicts import CORRECTED, FAILS, HOLDS, UNDECIDED, decides


@decides("kappa-invariant")
def kappa_invariant(largest_change: float) -> str:
    """Scaling, rotating and transposing leave κ, to rounding."""
    return HOLDS if largest_change < 1e-6 else FAILS


@decides("rank-collapse")
def rank_collapse(kappa_projection: float, rank: int, size: int) -> str:
    """Eq. (1) skips zeros, so it reads κ = 1 where the claim expects the extreme."""
    if rank >= size:
        return FAILS
    return CORRECTED if kappa_projection < 1 + 1e-6 else HOLDS


@decides("gaussian-entropy")
def gaussian_entropy(
    closed: float, monte_carlo: float, standard_error: float, neighbours: float
) -> str:
    """Against a Monte Carlo average and a nearest-neighbour estimate."""
    close = abs(closed - monte_carlo) < 4 * standard_error and abs(closed - neighbours) < 0.05
    return HOLDS if close else FAILS


@decides("entropy-scaling")
def entropy_scaling(scalar_error: float, vector_error: float) -> str:
    """Nearest-neighbour entropies of scaled samples, in nats off the shift by log c."""
    return HOLDS if max(abs(scalar_error), abs(vector_error)) < 0.05 else FAILS


@decides("output-covariance")
def output_covariance(deviation: float) -> str:
    """Largest entry off, as a share of the largest entry."""
    return HOLDS if deviation < 0.02 else FAILS


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


@decides("low-entropy-is-knowledge")
def low_entropy_is_knowledge(identity: float, rescaled: float, noise: float) -> str:
    """Rescaling and noise lower the entropy without teaching anything: a counterexample."""
    return FAILS if rescaled < identity and noise < identity else UNDECIDED


@decides("theorem-1")
def theorem_1(largest: float, best_random: float, ascent_kappas: Sequence[float]) -> str:
    """No random matrix passes the bound, and ascent ends at κ = 1."""
    arrived = all(abs(kappa - 1) < 1e-3 for kappa in ascent_kappas)
    return HOLDS if best_random <= largest + 1e-9 and arrived else FAILS


@decides("information-equals-entropy")
def information_equals_entropy(
    entropy: float, rank: int, noises: Sequence[float], informations: Sequence[float]
) -> str:
    """As noise vanishes the information grows by rank × log of the noise, without bound."""
    growth = [
        (after - before) / (rank * log(big / small))
        for (big, small), (before, after) in zip(
            pairwise(noises), pairwise(informations), strict=True
        )
    ]
    unbounded = growth[-1] > 0.99 and informations[-1] > entropy
    return FAILS if unbounded else HOLDS


@decides("log-volume-scale")
def log_volume_scale(shift: float, expected_shift: float, kappa_change: float) -> str:
    """The log-volume shifts by k log c, κ does not."""
    return HOLDS if abs(shift - expected_shift) < 1e-6 and kappa_change < 1e-6 else FAILS


@decides("lagrangian")
def lagrangian(symbolic_residual: float, optimiser_kappas: Sequence[float]) -> str:
    """Symbolic algebra, and an optimiser on the sphere that does not use the Lagrangian."""
    arrived = all(abs(kappa - 1) < 1e-3 for kappa in optimiser_kappas)
    return HOLDS if symbolic_residual == 0 and arrived else FAILS


@decides("convex-constraint")
def convex_constraint(
    energy: float, midpoint_energy: float, midpoint_sum: float, largest_curvature: float
) -> str:
    """A midpoint leaves the sphere; in squared singular values it stays on the simplex."""
    if abs(midpoint_energy - energy) < 1e-9:
        return HOLDS
    repaired = abs(midpoint_sum - energy) < 1e-9 and largest_curvature < 0
    return CORRECTED if repaired else FAILS


@decides("more-information-at-kappa-one")
def more_information(optimiser_kappas: Sequence[float]) -> str:
    """Optimised at every noise level; without noise every spectrum has infinite information."""
    # Without noise the information is infinite for every spectrum: the claim needs the noise.
    return CORRECTED if all(abs(kappa - 1) < 1e-2 for kappa in optimiser_kappas) else FAILS


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


@decides("anisotropy")
def anisotropy(largest_deviation: float) -> str:
    """Half-axes of a sample ellipsoid against singular values, as a share."""
    return HOLDS if largest_deviation < 0.02 else FAILS


@decides("selective-amplification")
def selective_amplification(
    kappa_strong: float, kappa_weak: float, information_strong: float, information_weak: float
) -> str:
    """The same spectrum, on the wrong directions, tells little of the class: a counterexample."""
    same = abs(kappa_strong / kappa_weak - 1) < 1e-9
    return FAILS if same and information_weak < information_strong / 2 else UNDECIDED


@decides("not-sufficient")
def not_sufficient(
    kappa_untrained: float, kappa_trained: float, error_untrained: float, error_trained: float
) -> str:
    """An untrained unit with a far higher κ and error: an example settles it."""
    shown = kappa_untrained > 10 * kappa_trained and error_untrained > 100 * error_trained
    return HOLDS if shown else UNDECIDED


@decides("necessary")
def necessary(kappa_trained: float, error_untrained: float, error_trained: float) -> str:
    """A trained unit that solves its task at κ near 1: a counterexample, built to be one."""
    return FAILS if kappa_trained < 1.5 and error_trained < 1e-3 * error_untrained else UNDECIDED


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
    return CORRECTED if relu_entropy_change == float("-inf") else HOLDS


@decides("nonlinear-in-practice")
def nonlinear_in_practice(
    largest_slope: float, entropy_change: float, information_change: float, repaired_change: float
) -> str:
    """GELU's slope exceeds 1; the bound holds again times that slope."""
    if largest_slope <= 1:
        return HOLDS
    broken = entropy_change > 0.02 and information_change > 0.01
    return CORRECTED if broken and repaired_change <= 0 else FAILS
