import json
import re

import nbformat
import numpy as np
import pytest
import yaml

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import claims, compare, report
from kappa_lib.evidence.claims import FILE, catalogue, claim
from kappa_lib.evidence.rules import RULES, Code, Comparison
from kappa_lib.evidence.verdicts import Decision, Verdict


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    profiles.load({"profile": "smoke"})
    return tmp_path / "smoke"


def by_id(folder):
    return {found.id: found for found in claims.load(folder)}


def calls(cell):
    """Id → arguments of each claim that a notebook cell decides."""
    source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
    return dict(re.findall(r'claim\("([a-z0-9-]+)"(.*)\)', source))


CELLS = {
    f"{path.name}#{cell['id']}": calls(cell)
    for path in paths.NOTEBOOKS.glob("*.ipynb")
    for cell in nbformat.read(path, as_version=4).cells
}


def test_every_claim_is_decided_by_its_cell_and_no_other():
    decided = [(name, place) for place, found in CELLS.items() for name in found]
    assert sorted(decided) == sorted((c.id, c.cell) for c in catalogue().values())


def test_a_criterion_stands_in_the_cell_or_in_the_catalogue():
    for place in CELLS.values():
        for name, arguments in place.items():
            declared = catalogue()[name].decided_by is not None
            assert declared == (arguments == ""), name


def test_what_is_declared_can_be_compared():
    for entry in catalogue().values():
        rule = entry.decided_by
        if isinstance(rule, Code):
            assert rule.code in RULES
        if isinstance(rule, (Code, Comparison)) and rule.runs:
            assert rule.runs in profiles.names()
        if isinstance(rule, Comparison):
            ran = set(profiles.load(rule.runs or "study").arms)
            assert any(set(pair) <= ran for pair in rule.pairs)
            assert {outcome.split()[0] for outcome in rule.outcomes} <= set(compare.ENDS)


def test_without_a_run_nothing_is_decided(results):
    found = claims.load(results)
    assert {claim.verdict for claim in found} == {Verdict.NOT_MEASURED}
    assert "| not measured | 10 | 23 | 3 | 10 | 1 |" in report.tally(found)


@pytest.mark.parametrize(
    ("criterion", "verdict"),
    [
        ({"holds": True}, "holds"),
        ({"holds": False}, "fails"),
        ({"holds": True, "corrected": True}, "holds"),
        ({"holds": False, "corrected": True}, "holds with a correction"),
        ({"corrected": np.False_, "confounded": np.True_}, "confounded"),
        ({"holds": False, "fails": False}, "undecided"),
        ({"fails": True}, "fails"),
        ({"fails": False}, "undecided"),
        ({"holds": True, "testable": False}, "not testable here"),
    ],
)
def test_the_cell_s_criterion_decides(results, criterion, verdict, capsys):
    claim("kappa-invariant", **criterion, largest_change=np.float64(1e-12))
    assert capsys.readouterr().out == f"claim kappa-invariant: {verdict}\n"
    found = json.loads((results / "claims" / "kappa-invariant.json").read_text())
    assert found["numbers"] == {"largest_change": 1e-12}
    assert found["verdict"] == found["decision"]["verdict"] == verdict
    assert by_id(results)["kappa-invariant"].verdict == verdict
    assert not list(results.rglob("*.partial*"))


def test_infinity_survives_and_nan_is_refused(results):
    claim("nonlinear-bound", holds=True, changes=[-1.0], relu=-np.inf)
    assert by_id(results)["nonlinear-bound"].measured == {"changes": [-1.0], "relu": "-inf"}
    with pytest.raises(InputError, match="NaN"):
        claim("nonlinear-bound", holds=True, relu=np.nan)


def test_a_claim_that_cannot_be_decided_so_is_named(results):
    with pytest.raises(InputError, match="no claim 'flat-earth'"):
        claim("flat-earth", holds=True)
    with pytest.raises(InputError, match="gives a criterion that"):
        claim("kappa-is-the-cause", holds=True)
    with pytest.raises(InputError, match="lacks the criterion"):
        claim("kappa-invariant", largest_change=0.0)


def test_a_record_of_another_wording_is_not_shown(results, monkeypatch):
    claim("kappa-invariant", holds=True)
    worded = {
        name: entry.model_copy(update={"statement": f"{entry.statement} Or something else."})
        for name, entry in catalogue().items()
    }
    monkeypatch.setattr(claims, "catalogue", lambda: worded)
    assert by_id(results)["kappa-invariant"].verdict == Verdict.NOT_MEASURED


def test_decisions_come_back_as_they_were_written(results):
    entry = catalogue()["kappa-is-the-cause"]
    part = Decision("higher", 0.1, (0.05, np.inf), unit="nats per token", n=5, p=0.5, margin=0.01)
    found = Decision("undecided", n=5, p=1.0, note="a note", parts={"kl": part})
    claims.write(entry, found, {}, results)
    back = by_id(results)["kappa-is-the-cause"].decision
    assert back == found.noting("p = 1 by Holm")


def test_chance_among_primary_claims_is_undecided(results):
    """By hand: of p = 0.02, 0.2 and 0.3 the smallest counts three times, 0.06."""
    for name, p in (
        ("selected-beats-inverse", 0.02),
        ("inverse-rises", 0.2),
        ("new-text-task", 0.3),
    ):
        claims.write(catalogue()[name], Decision("fails", p=p), {}, results)
    found = by_id(results)["selected-beats-inverse"]
    assert (found.verdict, found.decision.note) == ("undecided", "p = 0.06 by Holm")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "holds"}, "verdict"),
        ({"group": "poetry"}, "group"),
        ({"scale": "cosmic"}, "scale"),
        ({"kind": "joke"}, "kind"),
        ({"cell": None}, "cell"),
        ({"statement": ""}, "statement"),
        ({"decided_by": {"runs": "cause"}}, "decided_by"),
        ({"decided_by": {"pairs": [["a"]], "outcomes": ["kl"]}}, "decided_by"),
    ],
)
def test_a_malformed_catalogue_is_named(tmp_path, monkeypatch, change, said):
    entry = yaml.safe_load(FILE.read_text(encoding="utf-8"))[0] | change
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump([entry]), encoding="utf-8")
    monkeypatch.setattr(claims, "FILE", file)
    with pytest.raises(InputError, match=rf"0\.{said}"):
        catalogue.__wrapped__()


def test_no_claim_is_listed_twice_or_decided_in_the_catalogue():
    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert [entry["id"] for entry in entries] == list(catalogue())
    assert {entry.verdict for entry in catalogue().values()} == {Verdict.NOT_MEASURED}


def test_table_lists_every_claim_with_its_numbers(results):
    claim("output-covariance", holds=True, deviation=0.012345678)
    table = report.table("verdicts", claims.load(results))
    lines = table.splitlines()
    assert len(lines) == 2 + len(catalogue())
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)
    (line,) = [line for line in lines if "[output-covariance](" in line]
    assert "deviation = 0.01235" in line
    assert line.startswith("| **holds** |")
    assert "| theorem (identity) |" in line


def test_the_most_important_claims_come_first_and_none_is_lost():
    parts = report.by_importance(claims.load(paths.REFERENCE / "study"))
    primary, others, _ = ([c.id for c in found] for found in parts.values())
    assert sorted(c.id for found in parts.values() for c in found) == sorted(catalogue())
    assert primary[:2] == ["kappa-causes-forgetting", "kappa-is-the-cause"]
    assert others[:2] == ["kappa-of-a-function", "rule-reads-the-function"]
