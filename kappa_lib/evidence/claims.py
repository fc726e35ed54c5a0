"""Claims of the paper, decided: a notebook's cell calls :func:`claim`, reports :func:`load`.

A decision is written to ``claims/<id>.json`` in the results folder.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kappa_lib import profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import rules
from kappa_lib.evidence.catalogue import FILE, Claim, catalogue
from kappa_lib.evidence.verdicts import (
    CONFOUNDED,
    CORRECTED,
    FAILS,
    HOLDS,
    LEVEL,
    NOT_TESTABLE,
    UNDECIDED,
    Decision,
    holm,
)
from kappa_lib.files import read_json, write_json


def claim(
    claim_id: str,
    /,
    *,
    holds: bool | None = None,
    corrected: bool = False,
    confounded: bool = False,
    fails: bool | None = None,
    testable: bool = True,
    note: str = "",
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
        decision = rules.decide(entry.decided_by, profile)
    else:
        said = {HOLDS: holds, CORRECTED: corrected, CONFOUNDED: confounded}
        said[FAILS] = fails is None or fails
        verdict = next((word for word, true in said.items() if true), UNDECIDED)
        decision = Decision(verdict if testable else NOT_TESTABLE, note=note)
    write(entry, decision, numbers, profile.output)
    print(f"claim {claim_id}: {decision.verdict}")


def write(entry: Claim, decision: Decision, numbers: dict[str, Any], folder: Path) -> None:
    """Write a decision and the numbers beside it into a results folder."""
    value = {
        "id": entry.id,
        "verdict": decision.verdict,
        "decision": _each(_to_json, asdict(decision)),
        "numbers": _each(_to_json, numbers),
        "cell": entry.cell,
        "claim": entry.fingerprint,
    }
    write_json(folder / "claims" / f"{entry.id}.json", value)


def load(folder: Path, file: Path = FILE) -> list[Claim]:
    """The catalogue ``file`` with the decisions that a run left in its results ``folder``.

    A record of another wording or rule counts as not measured. Holm's correction over the primary
    comparisons comes last: a difference that is decided only without it becomes *undecided*.
    """
    claims = {c.id: _with_decision(c, folder) for c in catalogue(file).values()}
    primary = [c for c in claims.values() if c.primary and c.decision and c.decision.p]
    for name, p in holm({c.id: c.decision.p for c in primary}).items():
        decision = claims[name].decision
        if decision.verdict in (HOLDS, FAILS) and p >= 1 - LEVEL:  # it may be chance
            decision = decision.but(UNDECIDED)
        decision = decision.noting(f"p = {p:.2g} by Holm")
        claims[name] = claims[name].decided(decision, claims[name].measured)
    return list(claims.values())


def _with_decision(entry: Claim, folder: Path) -> Claim:
    path = folder / "claims" / f"{entry.id}.json"
    if not path.is_file() or (found := read_json(path, dict[str, object]))["claim"] != (
        entry.fingerprint
    ):
        return entry
    decision, numbers = (_each(_from_json, found[key]) for key in ("decision", "numbers"))
    return entry.decided(_decision(decision), numbers)


def _decision(found: dict[str, Any]) -> Decision:
    parts = {name: _decision(part) for name, part in found["parts"].items()}
    ends = {key: found[key] and tuple(found[key]) for key in ("interval", "narrow")}
    return Decision(**found | ends | {"parts": parts})


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
    """JSON has no infinity, which is kept as a string; NaN is an error."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise InputError("a number of a claim is NaN", "find where it came from")
        return str(value)
    return value


def _from_json(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf") else value
