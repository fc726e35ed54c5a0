"""Verdicts and differences of the committed runs are those that the release v0.1.0 found."""

import json
from pathlib import Path

import numpy as np
import pytest

from kappa_lib import paths, profiles
from kappa_lib.evidence import claims, compare
from kappa_lib.evidence.runs import runs
from kappa_lib.files import read_json

GOLDEN = Path(__file__).parents[1] / "golden"
VERDICTS, COMPARISONS = (
    json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("verdicts", "comparisons")
)


def numbers(decision):
    """Every estimate of a decision and its parts: n, estimate, interval, p."""
    found = [] if decision.estimate is None else [decision]
    return [*found, *(d for part in decision.parts.values() for d in numbers(part))]


@pytest.mark.parametrize("run", ["laptop", "study"])
def test_verdicts(run):
    found = {claim.id: claim for claim in claims.load(paths.REFERENCE / run)}
    golden = VERDICTS["both"] | VERDICTS[run]
    assert {name: found[name].verdict for name in golden} == {
        name: wanted["verdict"] for name, wanted in golden.items()
    }
    for name, wanted in golden.items():
        claim = found[name]
        assert [claim.scale, claim.kind, claim.primary] == [
            wanted[key] for key in ("reach", "kind", "primary")
        ]
        if claim.primary:
            assert claim.decision.n == wanted["n"]
            assert claim.decision.p == (wanted["p"] and pytest.approx(wanted["p"], rel=1e-4))
        shown = [(d.n, d.estimate, d.interval or ()) for d in numbers(claim.decision)]
        kept = np.concatenate(
            [[], *(np.ravel(v) for v in claim.measured.values() if not isinstance(v, str))]
        )
        for part in wanted["measured"]:
            same = [part["estimate"], *(part["interval"] or ())]
            beside = all(np.isclose(kept, x, rtol=1e-4, atol=1e-6).any() for x in same)
            assert beside or any(
                part["n"] in (n, None) and [x, *ends] == pytest.approx(same, rel=1e-4, abs=1e-6)
                for n, x, ends in shown
            ), f"{name}: {part} is not among {shown}"


@pytest.mark.parametrize("run", ["laptop", "study"])
def test_what_is_declared_gives_the_recorded_verdicts(run):
    """The records are those of today's rules, from the committed runs and tables."""
    profile = profiles.load(f"reference/{run}")
    for claim in claims.load(paths.REFERENCE / run):
        record = paths.REFERENCE / run / "claims" / f"{claim.id}.json"
        recorded = record.is_file()
        assert recorded == (claim.decision is not None), f"{claim.id}: a record of another rule"
        assert not recorded or read_json(record)["cell"] == claim.cell, f"{claim.id}: another cell"
        if claim.decided_by is not None and recorded:
            found = claim.decided_by.decide(profile)
            assert "Holm" in claim.decision.note or found.verdict == claim.verdict
            assert found.interval == pytest.approx(claim.decision.interval)
            assert {n: p.verdict for n, p in found.parts.items()} == {
                n: p.verdict for n, p in claim.decision.parts.items()
            }


def test_comparisons():
    for name in dict.fromkeys(key.split(":")[0] for key in COMPARISONS):
        found = runs(f"reference/{name}")
        outcomes = [*compare.outcomes_of(found), *compare.texts_of(found)]
        rows = compare.comparisons(found, outcomes=outcomes).set_index(["pair", "outcome"])
        golden = {tuple(k.split(": ")[1:]): v for k, v in COMPARISONS.items() if k.startswith(name)}
        assert set(rows.index) == set(golden)
        for key, (n, *wanted, reading) in golden.items():
            row = rows.loc[key]
            assert (row["n"], row["reading"]) == (n, reading)
            for column, value in zip(("mean", "low", "high", "p"), wanted, strict=True):
                assert value is None or row[column] == pytest.approx(value, rel=1e-4, abs=1e-9)
