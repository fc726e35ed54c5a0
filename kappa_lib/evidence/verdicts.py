"""The verdicts, their scales, and the registry of rules: claim id -> function of numbers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from kappa_lib.errors import InputError

HOLDS = "holds"
CORRECTED = "holds with a correction"
FAILS = "fails"
SAME = "no relevant difference"
UNDECIDED = "undecided"
CONFOUNDED = "confounded"
NOT_TESTABLE = "not testable here"
VERDICTS = (HOLDS, CORRECTED, FAILS, SAME, UNDECIDED, CONFOUNDED, NOT_TESTABLE)

# How far a verdict reaches: mathematics checked here, the model that was measured at this size,
# or a unit built to show the point.
PROVED, THIS_MODEL, TOY = "proved", "this model", "toy"
SCALES = (PROVED, THIS_MODEL, TOY)


@dataclass(frozen=True)
class Decision:
    """A verdict with the numbers that carry it.

    Attributes:
        verdict: one of ``VERDICTS``.
        estimate: the deciding quantity, for a comparison the first arm less the second.
        interval: its interval at ``level``, low and high.
        level: coverage of ``interval``.
        unit: of estimate and interval, as ``points`` or ``nats a token``.
        n: independent repetitions behind it (seeds, layers, utterances).
        effect: standardised size, d_z of paired differences.
        note: one short sentence that a reader of the verdict must know.
        p: two-sided p-value of the estimate, for Holm's correction over primary comparisons.
    """

    verdict: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    level: float = 0.95
    unit: str = ""
    n: int | None = None
    effect: float | None = None
    note: str = ""
    p: float | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"there is no verdict {self.verdict!r}", f"use one of {VERDICTS}")


Rule = Callable[..., Decision | str]
RULES: dict[str, Rule] = {}


def decides(claim_id: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of a claim.

    The function takes the measured numbers by name and returns a :class:`Decision`, or the bare
    verdict where there is no estimate (an identity that is checked to rounding).
    """

    def register(rule: Rule) -> Rule:
        if claim_id in RULES:
            raise InputError(f"claim {claim_id!r} has two rules", "give each claim one rule")
        RULES[claim_id] = rule
        return rule

    return register


def numbers_of(rule: Rule) -> list[str]:
    """Names of the measured numbers that a rule reads."""
    return list(inspect.signature(rule).parameters)
