"""The verdicts, their scales, and the registry of rules: claim id → function of numbers."""

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
    """A verdict with the numbers that carry it."""

    verdict: str  # one of VERDICTS
    estimate: float | None = None  # of a comparison: the first arm less the second
    interval: tuple[float, float] | None = None  # low and high at ``level``
    level: float = 0.95
    unit: str = ""  # of estimate and interval, as "points" or "nats a token"
    n: int | None = None  # independent repetitions behind it: seeds, layers, utterances
    effect: float | None = None  # standardised size, d_z of paired differences
    note: str = ""  # one short sentence that a reader of the verdict must know
    p: float | None = None  # two-sided, for Holm's correction over primary comparisons
    narrow: tuple[float, float] | None = None  # 90 %; inside ±margin: no relevant difference
    margin: float | None = None  # in ``unit``
    parts: Mapping[str, "Decision"] = field(default_factory=dict)  # outcome → its own decision

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


def notes(*texts: str) -> str:
    """Those that say something, one after another."""
    return "; ".join(filter(None, texts))


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
