"""The catalogue of claims, ``data/claims.yaml``: what is claimed, where, and what decides it.

An outcome is never in it. A claim about theory is decided in the notebook's cell, where its
criterion stands; one about measurements declares under ``decided_by`` what it is decided from.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import NOT_MEASURED, Decision
from kappa_lib.files import fingerprint, parse

FILE = paths.DATA / "claims.yaml"
# What a run could knock down; what a textbook guarantees; what we warn of beside the paper.
CLAIM, IDENTITY, CAVEAT = ("claim", "identity", "caveat")
Group = Literal["theory", "kappa", "case study", "conclusion", "text tasks"]
GROUPS = get_args(Group)
Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Part):
    """Two arms, seed by seed: the claim holds if all outcomes read as it says.

    By the rule of comparisons at the head of ``claims.yaml``.
    """

    # The profile whose committed runs decide for their model; another model's own runs decide for
    # it. Left out: the runs at hand.
    runs: str | None = None
    pairs: list[tuple[str, str]]  # the first of which both arms were run is compared
    every: bool = False  # or all of them, which must agree, by Holm over the pairs
    outcomes: list[str]  # see :mod:`kappa_lib.evidence.compare`
    claimed: Literal["lower", "higher", "alike"] = "lower"  # what the first arm is said to be
    margin: float | None = None  # of equivalence; left out: a point of WER, 0.01 nats per token
    seeds: list[int] | None = None  # that decide; left out: all but the pilot's
    held: list[Literal["parameters", "types", "layers", "training loss", "draws"]] = []


class Correlation(_Part):
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


class Code(_Part):
    """A rule that needs code of its own, in :mod:`kappa_lib.evidence.rules`."""

    code: str
    runs: str | None = None  # as of :class:`Comparison`


class Claim(_Part):
    """One claim of the paper, with what a run found about it."""

    id: Text
    group: Group
    place: Text  # version and section or equation of the paper
    statement: Text  # in our words, or quoted
    kind: Literal["claim", "identity", "caveat"]
    scale: Literal["proved", "this model", "toy"]  # the reach of a verdict
    rule: Text  # how the verdict follows from the numbers, in words
    cell: Annotated[str, Field(pattern=r"^\w+\.ipynb#[\w-]+$")]  # that decides it
    evidence: Text  # what the verdict rests on
    overturned_by: Text
    minutes: int  # to check it on two cores
    primary: bool = False  # whether Holm's correction is over its p-value too
    decided_by: Comparison | Correlation | Code | None = None  # None: the cell's own criterion

    _decision: Decision | None = PrivateAttr(None)
    _measured: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def decision(self) -> Decision | None:
        """What a run decided; None while nothing was measured."""
        return self._decision

    @property
    def measured(self) -> dict[str, Any]:
        """The numbers that the deciding cell left beside the decision."""
        return self._measured

    @property
    def verdict(self) -> str:
        """One of ``VERDICTS``, or ``not measured``."""
        return self.decision.verdict if self.decision else NOT_MEASURED

    @property
    def fingerprint(self) -> str:
        """Changes with the claim's wording or rule, so that an old record is not shown for it."""
        rule = self.decided_by and self.decided_by.model_dump(exclude_defaults=True)
        return fingerprint([self.statement, self.rule, rule])

    def decided(self, decision: Decision, measured: dict[str, Any]) -> "Claim":
        """The same claim with what a run found."""
        claim = self.model_copy()
        claim._decision, claim._measured = decision, measured
        return claim


def catalogue(file: Path = FILE) -> dict[str, Claim]:
    """All claims by id, undecided, in the order of the file.

    Raises:
        InputError: a missing or unknown key (a verdict, for instance), a value of another kind,
            or a repeated id.
    """
    return dict(_catalogue(file.read_bytes(), file.name))


@cache  # a notebook asks a dozen times, and YAML is slow to read
def _catalogue(text: bytes, source: str) -> dict[str, Claim]:
    claims: dict[str, Claim] = {}
    for entry in parse(text, source, list[dict[str, object]], yaml.safe_load):
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            wrong = error.errors()[0]
            key = ".".join(map(str, wrong["loc"]))
            raise InputError(
                f"{source}: claim {entry.get('id', '?')!r}, key {key!r}: {wrong['msg']}",
                "correct it; kappa_lib/evidence/catalogue.py says what each key means",
            ) from error
        if claim.id in claims:
            raise InputError(f"{source}: claim {claim.id!r} appears twice", "rename one")
        claims[claim.id] = claim
    return claims
