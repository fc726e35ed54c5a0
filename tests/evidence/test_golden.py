"""Verdicts and differences of the committed runs are those that the release v0.1.0 found."""

import json
from pathlib import Path

import pandas as pd
import pytest

from kappa_lib import paths
from kappa_lib.evidence import arms, claims, tables

GOLDEN = Path(__file__).parents[1] / "golden"
VERDICTS, COMPARISONS = (
    json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("verdicts", "comparisons")
)
WORDS = {"first lower": "lower", "second lower": "higher"}


def numbers(decision):
    """Every estimate of a decision and its parts: n, estimate, interval, p."""
    found = [] if decision.estimate is None else [decision]
    return [*found, *(d for part in decision.parts.values() for d in numbers(part))]


@pytest.mark.parametrize("run", ["laptop", "study"])
def test_verdicts(run):
    found = {claim.id: claim for claim in claims.load(paths.REFERENCE / run)}
    golden = VERDICTS["both"] | VERDICTS[run]
    assert {name: claim.verdict for name, claim in found.items()} == {
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
        shown = [(d.n, d.estimate, d.interval) for d in numbers(claim.decision)]
        for part in wanted["measured"]:
            same = (part["estimate"], *(part["interval"] or ()))
            assert any(
                n == part["n"] and [x, *(ends or ())] == pytest.approx(same, rel=1e-4, abs=1e-6)
                for n, x, ends in shown
                if len(same) == 1 + len(ends or ())
            ), f"{name}: {part} is not among {shown}"


def test_comparisons(monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(paths.REFERENCE))
    for name in dict.fromkeys(key.split(":")[0] for key in COMPARISONS):
        table = tables.results(tables.of_runs(name))
        found = pd.concat([arms.outcomes(table), arms.outcomes_by_text(table)])
        rows = arms.summary(found).set_index(["pair", "outcome"])
        golden = {tuple(k.split(": ")[1:]): v for k, v in COMPARISONS.items() if k.startswith(name)}
        assert set(rows.index) == set(golden)
        for key, (n, *wanted, reading) in golden.items():
            row = rows.loc[key]
            assert (row["seeds"], WORDS.get(row["reading"], row["reading"])) == (n, reading)
            for column, value in zip(("mean", "low", "high", "p"), wanted, strict=True):
                assert value is None or row[column] == pytest.approx(value, rel=1e-4, abs=1e-9)
