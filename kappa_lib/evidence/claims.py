"""Claims: what the paper says (``claims.yaml``), decided by rules from measured numbers.

The catalogue says what is claimed, where, by which rule and in which notebook cell it is decided,
what the verdict rests on and what would overturn it; never the verdict itself. A notebook cell
calls :func:`record` with what it measured; the claim's rule turns the numbers into a decision,
written to ``results/<profile>/claims/<id>.json``, which :func:`load` reads for reports.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import (
    CONFOUNDED,
    CORRECTED,
    FAILS,
    HOLDS,
    LEVEL,
    NOT_MEASURED,
    RULES,
    SCALES,
    UNDECIDED,
    Decision,
    holm,
    notes,
    numbers_of,
)
from kappa_lib.files import fingerprint, fits, parse, read_json, shown, write_json

# Importing a module of rules registers them.
for _subject in ("theory", "kappa", "study"):
    importlib.import_module(f"kappa_lib.evidence.rules_{_subject}")

FILE = paths.DATA / "claims.yaml"
GROUPS = ("theory", "kappa", "case study", "conclusion", "text tasks")
# What a run could knock down; what a textbook guarantees; what we warn of beside the paper.
CLAIM, IDENTITY, CAVEAT = KINDS = ("claim", "identity", "caveat")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, with what a run found about it."""

    id: str  # also the name of its rule
    group: str  # one of GROUPS
    place: str  # version and section or equation of the paper
    statement: str  # in our words, or quoted
    kind: str  # one of KINDS
    scale: str  # one of SCALES, how far a verdict reaches
    rule: str  # how the verdict follows from the numbers, in words
    numbers: list[str]  # names of the measured numbers
    cell: str  # ``notebook.ipynb#cell-id`` that decides it
    evidence: str  # what the verdict rests on
    overturned_by: str
    minutes: int  # to check it on two cores
    primary: bool = False  # whether Holm's correction is over its p-value too
    decision: Decision | None = None  # of the rule; None while nothing was measured
    measured: dict[str, Any] | None = None  # the numbers that the decision came from

    @property
    def verdict(self) -> str:
        """One of ``VERDICTS``, or ``not measured``."""
        return self.decision.verdict if self.decision else NOT_MEASURED

    @property
    def fingerprint(self) -> str:
        """Changes with the claim's wording or rule, so that an old record is not shown for it."""
        return fingerprint([self.statement, self.rule, self.numbers, self.cell])


KEYS = tuple(f.name for f in fields(Claim) if f.name not in ("primary", "decision", "measured"))
_KINDS = {f.name: f.type for f in fields(Claim) if f.name in (*KEYS, "primary")}
_KINDS["cell"] = str | None


def catalogue(file: Path = FILE) -> dict[str, Claim]:
    """All claims by id, undecided, in the order of the file.

    Raises:
        InputError: a missing or unknown key (a verdict, for instance), a repeated id, a claim
            without a rule or a deciding cell, or numbers that are not those its rule reads.
    """
    return dict(_catalogue(file.read_bytes(), file.name))


@cache  # a notebook asks a dozen times, and YAML is slow to read
def _catalogue(text: bytes, source: str) -> dict[str, Claim]:
    claims: dict[str, Claim] = {}
    for entry in parse(text, source, list[dict[str, object]], yaml.safe_load):
        claim = _read(entry, source)
        if claim.id in claims:
            raise InputError(f"{source}: claim {claim.id!r} appears twice", "rename one")
        claims[claim.id] = claim
    return claims


def _read(entry: dict[str, Any], source: str) -> Claim:
    name = entry.get("id", "?")
    if wrong := sorted((set(entry) - {"primary"}) ^ set(KEYS)):
        raise InputError(
            f"{source}: claim {name!r} has missing or unknown keys {wrong}",
            f"give exactly {', '.join(KEYS)}; verdicts are written by a run, never by hand",
        )
    wrong = [key for key, kind in _KINDS.items() if not fits(entry.get(key, False), kind)]
    if wrong:
        raise InputError(
            f"{source}: claim {shown(name)} holds other values than text in {wrong}",
            "write text, a list of texts in numbers, and a number in minutes",
        )
    for key, known in (("group", GROUPS), ("kind", KINDS), ("scale", SCALES)):
        if entry[key] not in known:
            raise InputError(f"{source}: {name!r} is of {key} {entry[key]!r}", f"use {known}")
    if not entry["cell"]:
        raise InputError(f"{source}: claim {name!r} names no deciding cell", "enter notebook#cell")
    if name not in RULES:
        raise InputError(
            f"{source}: claim {name!r} has no rule", "write one in kappa_lib/evidence/rules_*"
        )
    if entry["numbers"] != numbers_of(RULES[name]):
        raise InputError(
            f"{source}: the numbers of {name!r} are not those that its rule reads",
            f"list {numbers_of(RULES[name])}",
        )
    return Claim(**entry)


def decide(claim_id: str, numbers: dict[str, Any]) -> Decision:
    """Apply the rule of a claim to measured numbers.

    ``numbers`` are numbers, strings, or nested lists and dictionaries of them, by name, exactly
    those that the rule reads; InputError for others, NaN among them, or an unknown id.
    """
    if claim_id not in RULES:
        raise InputError(f"there is no claim {claim_id!r}", f"use one of {', '.join(RULES)}")
    rule = RULES[claim_id]
    if set(numbers) != set(numbers_of(rule)):
        raise InputError(
            f"claim {claim_id!r} was given {sorted(numbers)}", f"give {sorted(numbers_of(rule))}"
        )
    for name, value in numbers.items():
        leaves: list[Any] = []
        _each(leaves.append, value)
        if any(isinstance(x, float) and math.isnan(x) for x in leaves):
            raise InputError(f"claim {claim_id!r}: {name} holds NaN", "find where it came from")
    found = rule(**numbers)
    return found if isinstance(found, Decision) else Decision(found)


def claim(
    claim_id: str,
    /,
    *,
    holds: bool = False,
    corrected: bool = False,
    confounded: bool = False,
    fails: bool = True,
    note: str = "",
    **numbers: Any,
) -> None:
    """Write and print the verdict on a claim whose criterion the calling cell states.

    The first of ``holds``, ``corrected`` (a corrected form of it holds), ``confounded`` (something
    else explains it) and ``fails`` that is true is the verdict, else it is undecided: what fails
    unless it holds leaves ``fails`` out, and a counterexample that may not be found gives it. The
    results folder of the current profile gets ``claims/<id>.json``, with the numbers.
    """
    found = {HOLDS: holds, CORRECTED: corrected, CONFOUNDED: confounded, FAILS: fails}
    verdict = next((word for word, true in found.items() if true), UNDECIDED)
    plain = _each(lambda x: x.item() if isinstance(x, np.generic) else x, numbers)
    value = {
        "id": claim_id,
        "verdict": verdict,
        "decision": _each(_to_json, asdict(Decision(verdict, note=note))),
        "numbers": _each(_to_json, plain),
        "cell": catalogue()[claim_id].cell,
        "claim": catalogue()[claim_id].fingerprint,
    }
    write_json(profiles.current().output / "claims" / f"{claim_id}.json", value)
    print(f"claim {claim_id}: {verdict}")


def record(claim_id: str, profile: str, /, **numbers: Any) -> None:
    """Decide a claim from what this cell measured, write the decision and print the verdict.

    The results folder of ``profile`` gets ``claims/<id>.json``. Numbers and errors are those of
    :func:`decide`; numpy values are converted.
    """
    plain = _each(lambda x: x.item() if isinstance(x, np.generic) else x, numbers)
    decision = decide(claim_id, plain)
    claim = catalogue()[claim_id]
    value = {
        "id": claim_id,
        "verdict": decision.verdict,
        "decision": _each(_to_json, asdict(decision)),
        "numbers": _each(_to_json, plain),
        "cell": claim.cell,
        "claim": claim.fingerprint,
    }
    write_json(paths.results(profile) / "claims" / f"{claim_id}.json", value)
    print(f"claim {claim_id}: {decision.verdict}")


def load(folder: Path, file: Path = FILE) -> list[Claim]:
    """The catalogue ``file`` with the decisions that a run left in its results ``folder``.

    The rule is applied anew to the recorded numbers, so an edited record shows as an error, and a
    record of another wording or rule counts as not measured. Holm's correction over the primary
    comparisons comes last: a difference that is decided only without it becomes *undecided*.
    InputError where a recorded verdict does not follow from its numbers.
    """
    claims = {c.id: _with_decision(c, folder) for c in catalogue(file).values()}
    primary = [c for c in claims.values() if c.primary and c.decision and c.decision.p]
    for name, p in holm({c.id: c.decision.p for c in primary}).items():
        decision = claims[name].decision
        note = notes(decision.note, f"p = {p:.2g} by Holm")
        chance = decision.verdict in (HOLDS, FAILS) and p >= 1 - LEVEL
        verdict = UNDECIDED if chance else decision.verdict
        claims[name] = replace(claims[name], decision=replace(decision, verdict=verdict, note=note))
    return list(claims.values())


def _with_decision(claim: Claim, folder: Path) -> Claim:
    path = folder / "claims" / f"{claim.id}.json"
    if not path.is_file() or (found := read_json(path))["claim"] != claim.fingerprint:
        return claim
    numbers = from_json(found["numbers"])
    decision = decide(claim.id, numbers)
    if decision.verdict != found["verdict"]:
        raise InputError(
            f"{path.name}: the verdict {found['verdict']!r} does not follow from its numbers",
            "delete the file and run the notebook again",
        )
    return replace(claim, decision=decision, measured=numbers)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of every leaf of nested dictionaries, lists, tuples and arrays."""
    if isinstance(value, dict):
        return {key: _each(change, item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_each(change, item) for item in value]
    return change(value)


def _to_json(value: Any) -> Any:
    """JSON has no infinity; it is kept as a string."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def from_json(numbers: dict[str, Any]) -> dict[str, Any]:
    """A record's numbers as the rule reads them, infinities included."""
    return _each(lambda x: float(x) if x in ("inf", "-inf") else x, numbers)
