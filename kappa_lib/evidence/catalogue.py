"""The catalogue of claims: ``claims.yaml`` read and checked against the rules.

It says what is claimed, where, by which rule and in which notebook cell it is decided, what the
verdict rests on and what would overturn it; never the verdict itself.
"""

import importlib
import pkgutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from kappa_lib import evidence, paths
from kappa_lib.errors import InputError
from kappa_lib.evidence.verdicts import NOT_MEASURED, RULES, SCALES, Decision, numbers_of
from kappa_lib.files import fingerprint, fits, parse, shown

# Importing a module of rules registers them.
for _module in pkgutil.iter_modules(evidence.__path__):
    if _module.name.startswith("rules_"):
        importlib.import_module(f"{evidence.__name__}.{_module.name}")

FILE = paths.DATA / "claims.yaml"
GROUPS = ("theory", "kappa", "case study", "conclusion", "text tasks")
# What a run could knock down; what a textbook guarantees; what we warn of beside the paper.
CLAIM, IDENTITY, CAVEAT = KINDS = ("claim", "identity", "caveat")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, with what a run found about it.

    Attributes:
        id: short name, also the name of its rule.
        group: one of ``GROUPS``.
        place: version and section or equation of the paper.
        statement: the claim in our words, or quoted.
        kind: one of ``KINDS``.
        scale: one of ``SCALES``, how far a verdict reaches.
        rule: how the verdict follows from the numbers, in words.
        numbers: names of the measured numbers.
        cell: ``notebook.ipynb#cell-id`` that decides it.
        evidence: what the verdict rests on.
        overturned_by: what would overturn it.
        minutes: to check it on two cores.
        primary: whether its p-value is one of those that Holm's correction is over.
        decision: what the rule made of the numbers; None while nothing was measured.
        measured: the numbers that the decision came from.
    """

    id: str
    group: str
    place: str
    statement: str
    kind: str
    scale: str
    rule: str
    numbers: tuple[str, ...]
    cell: str
    evidence: str
    overturned_by: str
    minutes: int
    primary: bool = False
    decision: Decision | None = None
    measured: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """One of ``VERDICTS``, or ``not measured``."""
        return self.decision.verdict if self.decision else NOT_MEASURED

    @property
    def fingerprint(self) -> str:
        """Changes with the claim's wording or rule, so that an old record is not shown for it."""
        return fingerprint([self.statement, self.rule, list(self.numbers), self.cell])


KEYS = tuple(f.name for f in fields(Claim) if f.name not in ("primary", "decision", "measured"))
_KINDS = dict.fromkeys(KEYS, str) | {"numbers": list[str], "minutes": int, "primary": bool}
_KINDS["cell"] = str | None


def catalogue(file: Path = FILE) -> dict[str, Claim]:
    """All claims by id, undecided, in the order of the file.

    Raises:
        InputError: a missing or unknown key (a verdict, for instance), a repeated id, a claim
            without a rule or a deciding cell, or numbers that are not those its rule reads.
    """
    claims: dict[str, Claim] = {}
    entries = parse(file.read_bytes(), file.name, list[dict[str, object]], yaml.safe_load)
    for entry in entries:
        claim = _read(entry, file.name)
        if claim.id in claims:
            raise InputError(f"{file.name}: claim {claim.id!r} appears twice", "rename one")
        claims[claim.id] = claim
    return claims


def _read(entry: dict[str, Any], source: str) -> Claim:
    name = entry.get("id", "?")
    if set(entry) - {"primary"} != set(KEYS):
        wrong = sorted((set(entry) - {"primary"}) ^ set(KEYS))
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
    if list(entry["numbers"]) != numbers_of(RULES[name]):
        raise InputError(
            f"{source}: the numbers of {name!r} are not those that its rule reads",
            f"list {numbers_of(RULES[name])}",
        )
    return Claim(**{**entry, "numbers": tuple(entry["numbers"])})
