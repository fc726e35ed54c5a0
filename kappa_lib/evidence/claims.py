"""Claims of the paper: the catalogue, ``data/claims.yaml``, and what a run decided of each.

An outcome is never in the catalogue. A claim about theory is decided in the notebook's cell, where
its criterion stands; one about measurements declares under ``decided_by`` what it is decided from.
A decision is written to ``claims/<id>.json`` in the results folder.
"""

import math
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, Field

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence.rules import Code, Comparison, Correlation
from kappa_lib.evidence.verdicts import LEVEL, Decision, Verdict, holm
from kappa_lib.files import fingerprint, from_yaml, parse, read_json, write_json

FILE = paths.DATA / "claims.yaml"
Group = Literal["theory", "kappa", "case study", "conclusion", "text tasks"]
GROUPS = get_args(Group)
Text = Annotated[str, Field(min_length=1)]


class Claim(BaseModel, frozen=True, extra="forbid"):
    """One claim of the paper, as the catalogue has it, and what a run found about it."""

    id: Text
    group: Group
    place: Text  # version and section or equation of the paper
    statement: Text  # in our words, or quoted
    # What a run could knock down; what a textbook guarantees; what we warn of beside the paper.
    kind: Literal["claim", "identity", "caveat"]
    scale: Literal["proved", "this model", "toy"]  # the reach of a verdict
    rule: Text  # how the verdict follows from the numbers, in words
    cell: Annotated[str, Field(pattern=r"^\w+\.ipynb#[\w-]+$")]  # that decides it
    evidence: Text  # what the verdict rests on
    overturned_by: Text
    minutes: int  # to check it on two cores
    primary: bool = False  # whether Holm's correction is over its p-value too
    decided_by: Comparison | Correlation | Code | None = None  # None: the cell's own criterion
    decision: Decision | None = None  # None while nothing was measured, as in the catalogue
    measured: dict[str, Any] = {}  # the numbers that the deciding cell left beside the decision

    @property
    def fingerprint(self) -> str:
        """Changes with the claim's wording or rule, so that an old record is not shown for it."""
        rule = self.decided_by and self.decided_by.model_dump(exclude_defaults=True)
        return fingerprint([self.statement, self.rule, rule])

    @property
    def verdict(self) -> Verdict:
        """What became of the claim."""
        return self.decision.verdict if self.decision else Verdict.NOT_MEASURED


@cache  # a notebook asks a dozen times, and YAML is slow to read
def catalogue() -> dict[str, Claim]:
    """All claims by id, the most important first; InputError where a key is missing or unknown (a
    verdict, for instance), or a value of another kind."""
    entries = parse(FILE.read_bytes(), FILE.name, list[Claim], from_yaml)
    return {entry.id: entry for entry in entries}


def claim(
    claim_id: str,
    /,
    *,
    holds: bool | None = None,
    corrected: bool = False,
    confounded: bool = False,
    fails: bool | None = None,
    testable: bool = True,
    **numbers: Any,
) -> None:
    """Decide a claim, write the decision among the current profile's results, print the verdict.

    What a claim about measurements is decided from is declared in ``claims.yaml``, and nothing
    else is given. For the others the calling cell states the criterion: the first that is true of
    ``holds``, ``corrected`` (a corrected form of it holds), ``confounded`` (something else
    explains it as well) and ``fails`` is the verdict, else it is undecided. Where ``fails`` is
    left out, what does not hold fails. ``numbers`` are kept, numpy's converted.

    Raises:
        InputError: no such claim, a criterion where one is declared or none where none is, a
            number that is NaN, or no profile was loaded.
    """
    entry, profile = catalogue().get(claim_id), profiles.current()
    if entry is None:
        raise InputError(f"there is no claim {claim_id!r}", f"use one of {', '.join(catalogue())}")
    given = holds is not None or fails is not None or corrected or confounded or not testable
    if given == (entry.decided_by is not None):
        declared = "gives a criterion that claims.yaml" if given else "lacks the criterion that it"
        raise InputError(f"claim {claim_id!r} {declared} declares", "see claim()'s description")
    if entry.decided_by is not None:
        decision = entry.decided_by.decide(profile)
    else:
        said = {Verdict.NOT_TESTABLE: not testable, Verdict.HOLDS: holds}
        said |= {Verdict.CORRECTED: corrected, Verdict.CONFOUNDED: confounded}
        said[Verdict.FAILS] = fails is None or fails
        decision = Decision(next((word for word in said if said[word]), Verdict.UNDECIDED))
    write(entry, decision, numbers, profile.output)
    print(f"claim {claim_id}: {decision.verdict}")


def write(entry: Claim, decision: Decision, numbers: dict[str, Any], folder: Path) -> None:
    """Write a decision and the numbers beside it into a results folder."""
    value = {
        "id": entry.id,
        "verdict": decision.verdict,
        "decision": _for_json(asdict(decision)),
        "numbers": _for_json(numbers),
        "cell": entry.cell,
        "claim": entry.fingerprint,
    }
    write_json(folder / "claims" / f"{entry.id}.json", value)


def _for_json(value: Any) -> Any:
    """numpy's values as Python's; JSON has no infinity, which is kept as a string."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_for_json(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise InputError("a number of a claim is NaN", "find where it came from")
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def load(folder: Path) -> list[Claim]:
    """The catalogue with the decisions that a run left in its results ``folder``.

    A record of another wording or rule counts as not measured. Holm's correction over the primary
    comparisons comes last: a difference that is decided only without it becomes *undecided*.
    """
    claims = {name: _with_record(entry, folder) for name, entry in catalogue().items()}
    primary = {n: c.decision for n, c in claims.items() if c.primary and c.decision}
    for name, p in holm({n: d.p for n, d in primary.items() if d.p}).items():
        decision = primary[name]
        if decision.verdict in (Verdict.HOLDS, Verdict.FAILS) and p >= 1 - LEVEL:
            decision = decision.but(Verdict.UNDECIDED)  # it may be chance
        decision = decision.noting(f"p = {p:.2g} by Holm")
        claims[name] = claims[name].model_copy(update={"decision": decision})
    return list(claims.values())


def _with_record(entry: Claim, folder: Path) -> Claim:
    path = folder / "claims" / f"{entry.id}.json"
    found = read_json(path, dict[str, object]) if path.is_file() else {}
    if found.get("claim") != entry.fingerprint:
        return entry
    known = {"decision": Decision(**found["decision"]), "measured": found["numbers"]}
    return entry.model_copy(update=known)
