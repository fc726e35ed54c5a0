"""Rules for the claims of the paper's Sections 2 and 3; in words in ``data/claims.yaml``."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from kappa_lib.evidence.verdicts import CONFOUNDED, CORRECTED, FAILS, HOLDS, decides


@decides("kappa-invariant")
def kappa_invariant(largest_change: float) -> str:
    return HOLDS if largest_change < 1e-6 else FAILS


@decides("rank-collapse")
def rank_collapse(kappa_projection: float, rank: int, size: int) -> str:
    if rank >= size:
        return FAILS
    return CORRECTED if kappa_projection < 1 + 1e-6 else HOLDS


@decides("gaussian-entropy")
def gaussian_entropy(
    closed: float, monte_carlo: float, standard_error: float, neighbours: float
) -> str:
    close = abs(closed - monte_carlo) < 4 * standard_error and abs(closed - neighbours) < 0.05
    return HOLDS if close else FAILS


@decides("entropy-scaling")
def entropy_scaling(scalar_error: float, vector_error: float) -> str:
    return HOLDS if max(abs(scalar_error), abs(vector_error)) < 0.05 else FAILS


@decides("output-covariance")
def output_covariance(deviation: float) -> str:
    return HOLDS if deviation < 0.02 else FAILS


@decides("determinant")
def determinant(wide_difference: float, tall_determinant: float) -> str:
    if abs(wide_difference) >= 1e-6:
        return FAILS
    return CORRECTED if abs(tall_determinant) < 1e-8 else HOLDS


@decides("output-entropy")
def output_entropy(full_rank_difference: float, image_difference: float) -> str:
    if abs(full_rank_difference) >= 0.05:
        return FAILS
    return CORRECTED if abs(image_difference) < 0.05 else HOLDS


@decides("low-entropy-is-knowledge")
def low_entropy_is_knowledge(identity: float, rescaled: float, noise: float) -> str:
    return FAILS if rescaled < identity and noise < identity else HOLDS


@decides("theorem-1")
def theorem_1(largest: float, best_random: float, ascent_kappas: Sequence[float]) -> str:
    arrived = all(abs(kappa - 1) < 1e-3 for kappa in ascent_kappas)
    return HOLDS if best_random <= largest + 1e-9 and arrived else FAILS


@decides("information-equals-entropy")
def information_equals_entropy(
    entropy: float, rank: int, noises: Sequence[float], informations: Sequence[float]
) -> str:
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
    return HOLDS if abs(shift - expected_shift) < 1e-6 and kappa_change < 1e-6 else FAILS


@decides("lagrangian")
def lagrangian(symbolic_residual: float, optimiser_kappas: Sequence[float]) -> str:
    arrived = all(abs(kappa - 1) < 1e-3 for kappa in optimiser_kappas)
    return HOLDS if symbolic_residual == 0 and arrived else FAILS


@decides("convex-constraint")
def convex_constraint(
    energy: float, midpoint_energy: float, midpoint_sum: float, largest_curvature: float
) -> str:
    if abs(midpoint_energy - energy) < 1e-9:
        return HOLDS
    repaired = abs(midpoint_sum - energy) < 1e-9 and largest_curvature < 0
    return CORRECTED if repaired else FAILS


@decides("more-information-at-kappa-one")
def more_information(optimiser_kappas: Sequence[float]) -> str:
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
    if not all(after > before >= 0 for before, after in pairwise(guaranteed_losses)):
        return FAILS
    reversed_pair = kappa_large > kappa_small and volume_large > volume_small
    return CORRECTED if reversed_pair else HOLDS


@decides("anisotropy")
def anisotropy(largest_deviation: float) -> str:
    return HOLDS if largest_deviation < 0.02 else FAILS


@decides("selective-amplification")
def selective_amplification(
    kappa_strong: float, kappa_weak: float, information_strong: float, information_weak: float
) -> str:
    same = abs(kappa_strong / kappa_weak - 1) < 1e-9
    return FAILS if same and information_weak < information_strong / 2 else HOLDS


@decides("not-sufficient")
def not_sufficient(
    kappa_untrained: float, kappa_trained: float, error_untrained: float, error_trained: float
) -> str:
    shown = kappa_untrained > 10 * kappa_trained and error_untrained > 100 * error_trained
    return HOLDS if shown else FAILS


@decides("necessary")
def necessary(kappa_trained: float, error_untrained: float, error_trained: float) -> str:
    return FAILS if kappa_trained < 1.5 and error_trained < 1e-3 * error_untrained else HOLDS


@decides("nonlinear-bound")
def nonlinear_bound(
    entropy_changes: Sequence[float],
    estimate_errors: Sequence[float],
    information_changes: Sequence[float],
    relu_entropy_change: float,
) -> str:
    bounded = max(entropy_changes) <= 0 and max(information_changes) <= 1e-6
    if not bounded or max(abs(error) for error in estimate_errors) >= 0.05:
        return FAILS
    return CORRECTED if relu_entropy_change == float("-inf") else HOLDS


@decides("nonlinear-in-practice")
def nonlinear_in_practice(
    largest_slope: float, entropy_change: float, information_change: float, repaired_change: float
) -> str:
    if largest_slope <= 1:
        return HOLDS
    broken = entropy_change > 0.02 and information_change > 0.01
    return CORRECTED if broken and repaired_change <= 0 else FAILS


@decides("lowest-kappa-is-least-specialised")
def lowest_kappa(square_among_lowest: int, square_among_highest: int, squares: int) -> str:
    separated = square_among_lowest == 0 and square_among_highest == squares
    return CONFOUNDED if separated else HOLDS


@decides("kappa-of-stored-weights")
def kappa_of_stored(kappa_true: float, kappa_read: float, smallest_possible: float) -> str:
    if abs(kappa_read / kappa_true - 1) < 0.1:
        return HOLDS
    # A smallest singular value that rounding could have made zero leaves κ without a bound.
    return CORRECTED if smallest_possible == 0 else FAILS
