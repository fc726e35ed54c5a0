"""The five verdicts, and the registry of rules: claim id -> function of measured numbers."""

import inspect
from collections.abc import Callable

from kappa_lib.errors import InputError

HOLDS = "holds"
CORRECTED = "holds with a correction"
FAILS = "fails"
CONFOUNDED = "confounded"
NOT_TESTABLE = "not testable here"
VERDICTS = (HOLDS, CORRECTED, FAILS, CONFOUNDED, NOT_TESTABLE)

Rule = Callable[..., str]
RULES: dict[str, Rule] = {}


def decides(claim_id: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of a claim.

    The function takes the measured numbers by name and returns one of ``VERDICTS``.
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
