"""Claims decided by rules from measured numbers, recorded, and loaded for reports.

A notebook cell calls :func:`record` with what it measured; the rule of that claim turns the
numbers into a decision, written to ``results/<profile>/claims/<id>.json``. No verdict is ever
written by hand.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.catalogue import FILE, Claim, catalogue
from kappa_lib.evidence.statistics import LEVEL, holm
from kappa_lib.evidence.verdicts import (
    FAILS,
    HOLDS,
    RULES,
    UNDECIDED,
    Decision,
    numbers_of,
)
from kappa_lib.files import read_json, write_json


def decide(claim_id: str, numbers: dict[str, Any]) -> Decision:
    """Apply the rule of a claim to measured numbers.

    Args:
        claim_id: an id of the catalogue.
        numbers: name -> number, string, or nested lists and dictionaries of them, exactly those
            the rule reads.

    Returns:
        The verdict with the estimate and interval that carry it, where the rule has any.

    Raises:
        InputError: unknown id, numbers missing or unknown, or NaN among them.
    """
    if claim_id not in RULES:
        raise InputError(f"there is no claim {claim_id!r}", f"use one of {', '.join(RULES)}")
    rule = RULES[claim_id]
    if set(numbers) != set(numbers_of(rule)):
        raise InputError(
            f"claim {claim_id!r} was given {sorted(numbers)}", f"give {sorted(numbers_of(rule))}"
        )
    for name, value in numbers.items():
        if any(isinstance(x, float) and math.isnan(x) for x in _flat(value)):
            raise InputError(f"claim {claim_id!r}: {name} holds NaN", "find where it came from")
    found = rule(**numbers)
    return found if isinstance(found, Decision) else Decision(found)


def record(claim_id: str, profile: str, /, **numbers: Any) -> None:
    """Decide a claim from what this cell measured, write the decision and print the verdict.

    Args:
        claim_id: an id of the catalogue.
        profile: whose results folder gets ``claims/<id>.json``.
        numbers: the measured numbers that the rule reads; numpy values are converted.

    Raises:
        InputError: see :func:`decide`.
    """
    plain = _each(_plain, numbers)
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
    write_json(_record_of(paths.results(profile), claim_id), value)
    print(f"claim {claim_id}: {decision.verdict}")


def load(folder: Path, file: Path = FILE) -> list[Claim]:
    """The catalogue with the decisions that a run left in ``folder``.

    The rule is applied anew to the recorded numbers, so an edited record shows as an error, and a
    record of another wording or rule counts as not measured. Holm's correction over the primary
    comparisons comes last: a difference that is decided only without it becomes *undecided*.

    Args:
        folder: a profile's results folder.
        file: the catalogue.

    Raises:
        InputError: a recorded verdict that does not follow from its numbers.
    """
    claims = [
        _with_decision(claim, _record_of(folder, claim.id)) for claim in catalogue(file).values()
    ]
    tested = {c.id: c.decision.p for c in claims if c.primary and c.decision and c.decision.p}
    adjusted = holm(tested)
    return [_corrected(c, adjusted[c.id]) if c.id in adjusted else c for c in claims]


def _record_of(folder: Path, claim_id: str) -> Path:
    return folder / "claims" / f"{claim_id}.json"


def _with_decision(claim: Claim, path: Path) -> Claim:
    if not path.is_file():
        return claim
    found = read_json(path)
    if found["claim"] != claim.fingerprint:
        return claim
    numbers = from_json(found["numbers"])
    decision = decide(claim.id, numbers)
    if decision.verdict != found["verdict"]:
        raise InputError(
            f"{path.name}: the verdict {found['verdict']!r} does not follow from its numbers",
            "delete the file and run the notebook again",
        )
    return replace(claim, decision=decision, measured=numbers)


def _corrected(claim: Claim, p: float) -> Claim:
    """The claim after Holm's correction, with the adjusted p in the note."""
    decision = claim.decision
    assert decision is not None
    told = f"p = {p:.2g} by Holm"
    note = "; ".join(text for text in (decision.note, told) if text)
    chance = decision.verdict in (HOLDS, FAILS) and p >= 1 - LEVEL
    verdict = UNDECIDED if chance else decision.verdict
    return replace(claim, decision=replace(decision, verdict=verdict, note=note))


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of every leaf of nested dictionaries, lists, tuples and arrays."""
    if isinstance(value, dict):
        return {key: _each(change, item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_each(change, item) for item in value]
    return change(value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _to_json(value: Any) -> Any:
    """JSON has no infinity; it is kept as a string."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def from_json(numbers: dict[str, Any]) -> dict[str, Any]:
    """A record's numbers as the rule reads them, infinities included."""
    return _each(lambda x: float(x) if x in ("inf", "-inf") else x, numbers)
