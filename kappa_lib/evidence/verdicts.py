"""The verdicts, their scales, and the registry of rules: claim id -> function of numbers."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kappa_lib.errors import InputError

HOLDS = "holds"
CORRECTED = "holds with a correction"
FAILS = "fails"
SAME = "no relevant difference"
UNDECIDED = "undecided"
CONFOUNDED = "confounded"
NOT_TESTABLE = "not testable here"
VERDICTS = (HOLDS, CORRECTED, FAILS, SAME, UNDECIDED, CONFOUNDED, NOT_TESTABLE)
NOT_MEASURED = "not measured"  # no notebook of a run has handed numbers to the rule

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
        narrow: 90 % interval, which *no relevant difference* is read from.
        margin: what ``narrow`` must lie inside for that, in ``unit``.
        parts: outcome -> decision, where a claim is about several; see :func:`together`.
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
    narrow: tuple[float, float] | None = None
    margin: float | None = None
    parts: Mapping[str, "Decision"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"there is no verdict {self.verdict!r}", f"use one of {VERDICTS}")


def together(parts: Mapping[str, Decision]) -> Decision:
    """One decision on a claim about several outcomes: theirs where they agree, else *undecided*.

    Asking all outcomes to agree (intersection-union) keeps the error rate of one test; p is the
    largest of the parts'.
    """
    found = {part.verdict for part in parts.values()}
    p = [part.p for part in parts.values()]
    return Decision(
        found.pop() if len(found) == 1 else UNDECIDED,
        n=min((part.n for part in parts.values() if part.n is not None), default=None),
        p=None if None in p else max(p),
        note=next((part.note for part in parts.values() if part.note), ""),
        parts=dict(parts),
    )


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
