"""The paper's claims: read from YAML, decided by rules from measured numbers, listed.

``data/claims.yaml`` says what is claimed, where, by which rule and in which notebook cell it
is decided. The cell calls :func:`record` with the numbers it measured; the rule of that id
(``rules_theory``, ``rules_study``) turns them into a verdict, written to
``results/<profile>/claims/<id>.json``. No verdict is ever written by hand.
"""

import importlib
import math
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kappa_lib import evidence, paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import RULES, VERDICTS, Decision, numbers_of
from kappa_lib.files import fingerprint, read_json, write_json

# Importing a module of rules registers them.
for _module in pkgutil.iter_modules(evidence.__path__):
    if _module.name.startswith("rules_"):
        importlib.import_module(f"{evidence.__name__}.{_module.name}")

FILE = paths.DATA / "claims.yaml"
NOT_MEASURED = "not measured"
KEYS = ("id", "group", "place", "statement", "rule", "numbers", "cell")
GROUPS = ("theory", "kappa", "case study", "conclusion", "text tasks")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, with what a run found about it.

    Attributes:
        id: short name, also the name of its rule.
        group: one of ``GROUPS``.
        place: version and section or equation of the paper.
        statement: the claim in our words.
        rule: how the verdict follows from the numbers, in words.
        numbers: names of the measured numbers.
        cell: ``notebook.ipynb#cell-id`` that decides it.
        verdict: one of ``VERDICTS``, or ``not measured``.
        measured: the numbers that the verdict came from; empty while undecided.
    """

    id: str
    group: str
    place: str
    statement: str
    rule: str
    numbers: tuple[str, ...]
    cell: str
    verdict: str = NOT_MEASURED
    measured: dict[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with the claim's wording or rule, so that an old record is not shown for it."""
        return fingerprint([self.statement, self.rule, list(self.numbers), self.cell])


def catalogue(file: Path = FILE) -> dict[str, Claim]:
    """All claims by id, undecided, in the order of the file.

    Raises:
        InputError: a missing or unknown key (a verdict, for instance), a repeated id, a claim
            without a rule or a deciding cell, or numbers that are not those its rule reads.
    """
    claims: dict[str, Claim] = {}
    for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
        claim = _read(entry, file.name)
        if claim.id in claims:
            raise InputError(f"{file.name}: claim {claim.id!r} appears twice", "rename one")
        claims[claim.id] = claim
    return claims


def _read(entry: dict[str, Any], source: str) -> Claim:
    name = entry.get("id", "?")
    if set(entry) != set(KEYS):
        wrong = sorted(set(entry) ^ set(KEYS))
        raise InputError(
            f"{source}: claim {name!r} has missing or unknown keys {wrong}",
            f"give exactly {', '.join(KEYS)}; verdicts are written by a run, never by hand",
        )
    if entry["group"] not in GROUPS:
        raise InputError(f"{source}: {name!r} is of group {entry['group']!r}", f"use {GROUPS}")
    if not entry["cell"]:
        raise InputError(f"{source}: claim {name!r} names no deciding cell", "enter notebook#cell")
    if name not in RULES:
        raise InputError(
            f"{source}: claim {name!r} has no rule", "write one in kappa_lib/evidence/rules_*"
        )
    if list(entry["numbers"]) != numbers_of(RULES[name]):
        raise InputError(
            f"{source}: the numbers of {name!r} are not those that its rule reads",
            f"list {numbers_of(RULES[name])}",
        )
    return Claim(**{**entry, "numbers": tuple(entry["numbers"])})


def decide(claim_id: str, numbers: dict[str, Any]) -> Decision:
    """Apply the rule of a claim to measured numbers.

    Args:
        claim_id: an id of the catalogue.
        numbers: name -> number, string or (nested) list of numbers, exactly those the rule reads.

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
    """Decide a claim from what this cell measured, write the verdict and print it.

    Args:
        claim_id: an id of the catalogue.
        profile: whose results folder gets ``claims/<id>.json``.
        numbers: the measured numbers that the rule reads; numpy values are converted.

    Raises:
        InputError: see :func:`decide`.
    """
    plain = {name: _plain(value) for name, value in numbers.items()}
    verdict = decide(claim_id, plain).verdict
    claim = catalogue()[claim_id]
    value = {
        "id": claim_id,
        "verdict": verdict,
        "numbers": {name: _to_json(item) for name, item in plain.items()},
        "cell": claim.cell,
        "claim": claim.fingerprint,
    }
    write_json(_record_of(paths.results(profile), claim_id), value)
    print(f"claim {claim_id}: {verdict}")


def load(folder: Path, file: Path = FILE) -> list[Claim]:
    """The catalogue with the verdicts that a run left in ``folder``.

    The verdict is applied anew to the recorded numbers, so an edited record shows as an error,
    and a record of another wording or rule counts as not decided.

    Args:
        folder: a profile's results folder.
        file: the catalogue.

    Raises:
        InputError: a recorded verdict that does not follow from its numbers.
    """
    return [
        _with_verdict(claim, _record_of(folder, claim.id)) for claim in catalogue(file).values()
    ]


def _record_of(folder: Path, claim_id: str) -> Path:
    return folder / "claims" / f"{claim_id}.json"


def _with_verdict(claim: Claim, path: Path) -> Claim:
    if not path.is_file():
        return claim
    found = read_json(path)
    if found["claim"] != claim.fingerprint:
        return claim
    numbers = {name: _from_json(value) for name, value in found["numbers"].items()}
    if decide(claim.id, numbers).verdict != found["verdict"]:
        raise InputError(
            f"{path.name}: the verdict {found['verdict']!r} does not follow from its numbers",
            "delete the file and run the notebook again",
        )
    fields = {key: getattr(claim, key) for key in KEYS}
    return Claim(**fields, verdict=found["verdict"], measured=numbers)


def counts(claims: Iterable[Claim]) -> dict[str, int]:
    """How many claims have each verdict, ``not measured`` included, in a fixed order."""
    found = [claim.verdict for claim in claims]
    return {verdict: found.count(verdict) for verdict in (*VERDICTS, NOT_MEASURED)}


def table_markdown(claims: Iterable[Claim]) -> str:
    """A Markdown table: place, statement, measured numbers, verdict, deciding cell."""
    lines = [
        "| claim | place | the paper says | measured | verdict | decided in |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims:
        numbers = "; ".join(f"{k} = {_short(v)}" for k, v in (claim.measured or {}).items())
        cells = [
            claim.id,
            claim.place,
            claim.statement,
            numbers or "–",
            f"**{claim.verdict}**",
            claim.cell,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _short(value: Any) -> str:
    """At most four significant digits; long lists by their ends."""
    if isinstance(value, list):
        shown = value if len(value) <= 4 else [*value[:2], "…", value[-1]]
        return "[" + ", ".join(_short(item) for item in shown) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays, tuples and lists to plain Python."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _to_json(value: Any) -> Any:
    """JSON has no infinity; it is kept as a string."""
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return float(value) if value in ("inf", "-inf") else value
