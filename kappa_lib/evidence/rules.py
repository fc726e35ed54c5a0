"""How claims about measurements are decided, as ``data/claims.yaml`` declares it for each."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from kappa_lib.evidence import compare, encoding
from kappa_lib.evidence.coded import RULES
from kappa_lib.evidence.correlation import within_types
from kappa_lib.evidence.runs import runs_for
from kappa_lib.evidence.verdicts import (
    DECIDED,
    LEVEL,
    NOT_RUN,
    Decision,
    Interval,
    Verdict,
    holm,
    together,
    unless_confounded,
)
from kappa_lib.profiles import Profile


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Rule):
    """Two arms, seed by seed: the claim is that the first is lower in all outcomes.

    By the rule of comparisons at the head of ``claims.yaml``.
    """

    # The profile whose committed runs decide for their model; another model's own runs decide for
    # it. Left out: the runs at hand.
    runs: str | None = None
    # The first of which both arms were run is compared.
    pairs: list[Annotated[compare.Pair, BeforeValidator(tuple)]]
    every: bool = False  # or all of them, which must agree, by Holm over the pairs
    outcomes: list[str]  # see :mod:`kappa_lib.evidence.compare`
    margin: float | None = None  # of equivalence; left out: a point of WER, 0.01 nats per token
    held: list[Literal["parameters", "types", "layers", "training loss", "draws"]] = []

    def decide(self, profile: Profile) -> Decision:
        """The verdict, *confounded* where it decides while something else differs."""
        found = runs_for(self.runs, profile)
        ran = compare.pairs_of(found, self.pairs)
        if not ran or (self.every and len(ran) < len(self.pairs)):
            return NOT_RUN
        pairs = ran if self.every else ran[:1]
        each = {
            pair: {o: compare.decide(found, pair, o, self.margin) for o in self.outcomes}
            for pair in pairs
        }
        parts = each[pairs[0]] if len(pairs) == 1 else _by_holm(each)
        unlike = (compare.unlike(found, pair, self.held) for pair in pairs)
        apart = {name: how for of in unlike for name, how in of.items()}
        return unless_confounded(together(parts), apart)


def _by_holm(each: Mapping[compare.Pair, Mapping[str, Decision]]) -> dict[str, Decision]:
    """Parts of all pairs; where a pair's p, corrected, may be chance, its readings are undecided.

    The p of a pair is that of all its outcomes together, see :func:`together`.
    """
    named = {compare.name_of(pair): of for pair, of in each.items()}
    p = {name: together(of).p for name, of in named.items()}
    corrected, parts = holm({name: x for name, x in p.items() if x is not None}), {}
    for name, of in named.items():
        chance = corrected.get(name, 1.0) >= 1 - LEVEL
        for outcome, part in of.items():
            decided = part.verdict in DECIDED and chance
            parts[f"{name}, {outcome}"] = part.but(Verdict.UNDECIDED) if decided else part
    return parts


class Correlation(_Rule):
    """Spearman's ρ of a column with others, within module types, against a band."""

    table: Literal["encoding", "kappa"]  # the committed encoding study, or the κ table at hand
    of: str
    outcomes: list[str]
    above: float  # an interval above it supports the claim
    below: float  # one below it refutes it
    level: float = 0.95
    # Outcomes that, supported alone while the others are refuted, leave a corrected claim.
    corrected: list[str] = []
    # Intervals below -``above`` correct the claim, and only one inside ±``below`` refutes it.
    either_way: bool = False

    def decide(self, profile: Profile) -> Decision:
        """The verdict on what κ goes with within module types."""
        table = encoding.table_of(self.table, profile)
        if table is None:
            return Decision(Verdict.NOT_TESTABLE, note="not measured for this model")
        return self.read(
            {name: within_types(table, self.of, name, level=self.level) for name in self.outcomes}
        )

    def read(self, found: Mapping[str, Interval]) -> Decision:
        """:meth:`decide`, from the intervals of the outcomes."""
        readings = {
            name: rho.reading(self.above, self.below, self.either_way)
            for name, rho in found.items()
        }
        said = set(readings.values())
        supported = {name for name, reading in readings.items() if reading == Verdict.HIGHER}
        verdict = Verdict.UNDECIDED
        if said == {Verdict.HIGHER}:
            verdict = Verdict.HOLDS
        elif said in ({Verdict.LOWER}, {Verdict.SAME}):
            other_way = self.either_way and said == {Verdict.LOWER}
            verdict = Verdict.CORRECTED if other_way else Verdict.FAILS
        elif said == {Verdict.HIGHER, Verdict.LOWER} and supported <= set(self.corrected):
            verdict = Verdict.CORRECTED
        unit = "Spearman's ρ"
        parts = {
            name: Decision(readings[name], rho.estimate, rho.ends[1:], rho.level, unit, rho.n)
            for name, rho in found.items()
        }
        first = next(iter(parts.values()))
        if len(parts) == 1:
            return first.but(verdict)
        return Decision(verdict, level=self.level, n=first.n, parts=parts)


class Code(_Rule):
    """A rule that needs code of its own, in :mod:`kappa_lib.evidence.coded`."""

    code: str
    runs: str | None = None  # as of :class:`Comparison`

    def decide(self, profile: Profile) -> Decision:
        """What the code says of the runs."""
        return RULES[self.code](runs_for(self.runs, profile))
