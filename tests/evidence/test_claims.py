import json
import re

import nbformat
import numpy as np
import pytest
import yaml

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence import claims, listing
from kappa_lib.evidence.verdicts import NOT_MEASURED, RULES, VERDICTS, numbers_of


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    return tmp_path / "smoke"


def by_id(folder):
    return {claim.id: claim for claim in claims.load(folder)}


def recorded(cell):
    """Ids that a notebook cell hands to ``record``."""
    return re.findall(r'record\(\s*"([a-z0-9-]+)"', "".join(cell["source"]))


def test_every_claim_has_a_rule_and_every_rule_a_claim():
    assert set(claims.catalogue()) == set(RULES)


def test_no_verdict_is_in_the_catalogue():
    for entry in yaml.safe_load(claims.FILE.read_text(encoding="utf-8")):
        assert set(entry) - {"primary"} == set(claims.KEYS)
        assert "verdict" not in entry


def test_deciding_cells_exist_and_record_their_claim():
    for claim in claims.catalogue().values():
        notebook, cell = claim.cell.split("#")
        cells = {c["id"]: c for c in nbformat.read(paths.NOTEBOOKS / notebook, as_version=4).cells}
        assert cell in cells, claim.cell
        assert claim.id in recorded(cells[cell]), claim.cell


def test_no_cell_records_a_claim_that_names_another():
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for claim_id in recorded(cell):
                assert claims.catalogue()[claim_id].cell == f"{path.name}#{cell['id']}"


def test_without_a_run_nothing_is_decided(results):
    assert {claim.verdict for claim in claims.load(results)} == {NOT_MEASURED}
    assert listing.counts(claims.load(results))[NOT_MEASURED] == len(claims.catalogue())


def test_record_writes_what_the_rule_decides(results, capsys):
    claims.record("kappa-invariant", "smoke", largest_change=np.float64(1e-12))
    assert capsys.readouterr().out == "claim kappa-invariant: holds\n"
    found = json.loads((results / "claims" / "kappa-invariant.json").read_text())
    assert found["numbers"] == {"largest_change": 1e-12}
    assert by_id(results)["kappa-invariant"].verdict == "holds"
    claims.record("kappa-invariant", "smoke", largest_change=0.1)
    assert by_id(results)["kappa-invariant"].verdict == "fails"
    assert not list(results.rglob("*.partial*"))


def test_infinity_survives_and_nan_is_refused(results):
    numbers = {"entropy_changes": [-1.0], "estimate_errors": [0.0], "information_changes": [-0.1]}
    claims.record("nonlinear-bound", "smoke", **numbers, relu_entropy_change=-np.inf)
    claim = by_id(results)["nonlinear-bound"]
    assert claim.verdict == "holds with a correction"
    assert claim.measured["relu_entropy_change"] == -np.inf
    with pytest.raises(InputError, match="NaN"):
        claims.record("nonlinear-bound", "smoke", **numbers, relu_entropy_change=np.nan)


def test_a_verdict_written_by_hand_is_refused(results):
    claims.record("kappa-invariant", "smoke", largest_change=0.5)
    path = results / "claims" / "kappa-invariant.json"
    path.write_text(path.read_text().replace('"fails"', '"holds"'))
    with pytest.raises(InputError, match="does not follow from its numbers"):
        claims.load(results)


def test_a_record_of_another_wording_is_not_shown(results, tmp_path):
    claims.record("kappa-invariant", "smoke", largest_change=0.0)
    entries = yaml.safe_load(claims.FILE.read_text(encoding="utf-8"))
    entries[0]["statement"] = "Something else."
    other = tmp_path / "claims.yaml"
    other.write_text(yaml.safe_dump(entries), encoding="utf-8")
    found = {claim.id: claim.verdict for claim in claims.load(results, other)}
    assert found["kappa-invariant"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "holds"}, "never by hand"),
        ({"id": "no-such-rule"}, "no rule"),
        ({"numbers": ["other"]}, "not those that its rule reads"),
        ({"group": "poetry"}, "group"),
        ({"scale": "cosmic"}, "scale"),
        ({"kind": "joke"}, "kind"),
        ({"cell": None}, "no deciding cell"),
    ],
)
def test_a_malformed_catalogue_is_named(tmp_path, change, said):
    entry = yaml.safe_load(claims.FILE.read_text(encoding="utf-8"))[0] | change
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump([entry]), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        claims.catalogue(file)


def test_a_repeated_claim_is_named(tmp_path):
    entry = yaml.safe_load(claims.FILE.read_text(encoding="utf-8"))[0]
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump([entry, entry]), encoding="utf-8")
    with pytest.raises(InputError, match="twice"):
        claims.catalogue(file)


def test_wrong_numbers_and_ids_are_named(results):
    with pytest.raises(InputError, match="no claim 'flat-earth'"):
        claims.record("flat-earth", "smoke", x=1)
    with pytest.raises(InputError, match="largest_change"):
        claims.record("kappa-invariant", "smoke", change=1.0)


def test_table_lists_every_claim_with_its_numbers(results):
    claims.record("output-covariance", "smoke", deviation=0.012345678)
    table = listing.table(claims.load(results))
    lines = table.splitlines()
    assert len(lines) == 2 + len(claims.catalogue())
    assert all(line.replace("\\|", "").count("|") == 8 for line in lines)
    (line,) = [line for line in lines if line.startswith("| output-covariance")]
    assert "deviation = 0.01235" in line
    assert "**holds**" in line


CASES = [
    ("rank-collapse", {"kappa_projection": 1.0, "rank": 2, "size": 6}, "holds with a correction"),
    ("rank-collapse", {"kappa_projection": 9.0, "rank": 2, "size": 6}, "holds"),
    ("rank-collapse", {"kappa_projection": 9.0, "rank": 6, "size": 6}, "fails"),
    (
        "gaussian-entropy",
        {"closed": 1.0, "monte_carlo": 1.05, "standard_error": 0.01, "neighbours": 1.0},
        "fails",
    ),
    (
        "gaussian-entropy",
        {"closed": 1.0, "monte_carlo": 1.01, "standard_error": 0.01, "neighbours": 1.06},
        "fails",
    ),
    ("entropy-scaling", {"scalar_error": 0.0, "vector_error": 0.2}, "fails"),
    ("output-covariance", {"deviation": 0.03}, "fails"),
    ("determinant", {"wide_difference": 0.0, "tall_determinant": 1.0}, "holds"),
    ("determinant", {"wide_difference": 1.0, "tall_determinant": 0.0}, "fails"),
    ("output-entropy", {"full_rank_difference": 0.1, "image_difference": 0.0}, "fails"),
    ("output-entropy", {"full_rank_difference": 0.0, "image_difference": 0.1}, "holds"),
    ("low-entropy-is-knowledge", {"identity": 1.0, "rescaled": 0.0, "noise": 2.0}, "undecided"),
    ("theorem-1", {"largest": 1.0, "best_random": 1.1, "ascent_kappas": [1.0]}, "fails"),
    ("theorem-1", {"largest": 1.0, "best_random": 0.9, "ascent_kappas": [1.0, 1.1]}, "fails"),
    (
        "information-equals-entropy",
        {"entropy": 9.0, "rank": 1, "noises": [1, 0.1, 0.01], "informations": [1, 2, 2.1]},
        "holds",
    ),
    ("log-volume-scale", {"shift": 1.0, "expected_shift": 1.1, "kappa_change": 0.0}, "fails"),
    ("lagrangian", {"symbolic_residual": 0, "optimiser_kappas": [1.2]}, "fails"),
    (
        "convex-constraint",
        {"energy": 1, "midpoint_energy": 1, "midpoint_sum": 1, "largest_curvature": -1},
        "holds",
    ),
    (
        "convex-constraint",
        {"energy": 1, "midpoint_energy": 0.9, "midpoint_sum": 1, "largest_curvature": 1},
        "fails",
    ),
    ("more-information-at-kappa-one", {"optimiser_kappas": [1.0, 1.5]}, "fails"),
    (
        "high-kappa-less-entropy",
        {
            "guaranteed_losses": [0, 1, 2],
            "kappa_small": 2,
            "volume_small": 3,
            "kappa_large": 4,
            "volume_large": 1,
        },
        "holds",
    ),
    ("anisotropy", {"largest_deviation": 0.1}, "fails"),
    (
        "selective-amplification",
        {
            "kappa_strong": 5,
            "kappa_weak": 5,
            "information_strong": 0.6,
            "information_weak": 0.5,
        },
        "undecided",
    ),
    (
        "not-sufficient",
        {"kappa_untrained": 5, "kappa_trained": 1, "error_untrained": 1, "error_trained": 0},
        "undecided",
    ),
    ("necessary", {"kappa_trained": 3, "error_untrained": 1, "error_trained": 0}, "undecided"),
    (
        "nonlinear-in-practice",
        {
            "largest_slope": 1.1,
            "entropy_change": 0.1,
            "information_change": 0.1,
            "repaired_change": 0.1,
        },
        "fails",
    ),
    (
        "lowest-kappa-is-least-specialised",
        {"square_among_lowest": 3, "square_among_highest": 61, "squares": 64},
        "undecided",
    ),
    (
        "kappa-of-stored-weights",
        {"kappa_true": 100, "kappa_read": 101, "smallest_possible": 0},
        "holds",
    ),
    (
        "kappa-of-stored-weights",
        {"kappa_true": 100, "kappa_read": 300, "smallest_possible": 0.1},
        "fails",
    ),
    *[
        (
            "kappa-reflects-training",
            {"above": above, "tensors": tensors, "variance_explained_by_type": share},
            verdict,
        )
        for above, tensors, share, verdict in [
            ([30, 26], [30, 30], 0.95, "holds with a correction"),
            ([30, 26], [30, 30], 0.2, "holds"),
            ([30, 17], [30, 30], 0.2, "undecided"),
            ([13, 17], [30, 30], 0.95, "fails"),
            ([3, 6], [5, 6], 0.95, "undecided"),
            ([3, 5], [5, 5], 0.95, "undecided"),  # five of a kind exclude nothing
        ]
    ],
    *[
        (
            "kappa-as-proxy",
            {"kappa": kappa, "effective_rank": [-0.99, -1.0, -0.98], "spearman_all": 0.9},
            verdict,
        )
        for kappa, verdict in [
            ([0.95, 0.9, 0.97], "holds"),
            ([0.42, 0.29, 0.53], "fails"),
            ([0.8, 0.7, 0.9], "undecided"),
        ]
    ],
    ("selection-without-data", {"tensors_ranked": 210, "tensors_total": 210}, "holds"),
    ("selection-without-data", {"tensors_ranked": 200, "tensors_total": 210}, "fails"),
    *[
        (
            "anisotropy-is-central",
            {
                "text_loss": 3.0,
                "text_loss_flattened": [5.0, flat],
                "text_loss_shaken": [3.2, shaken],
                "text_loss_permuted": permuted,
            },
            verdict,
        )
        for flat, shaken, permuted, verdict in [
            (5.0, 4.0, [3.1, 4.5], "holds"),
            (5.0, 5.0, [3.1, 4.5], "confounded"),
            (5.0, 4.0, [3.1, 5.5], "confounded"),
            (5.0, 4.0, [], "undecided"),
            (3.05, 3.0, [3.1, 3.0], "fails"),
        ]
    ],
    ("parameters-similar", {"parameters_selected": 100, "parameters_inverse": 91}, "holds"),
    ("parameters-similar", {"parameters_selected": 100, "parameters_inverse": 60}, "fails"),
    (
        "published-wer",
        {"model": "smollm2-135m", "wer_selected_final": 0.05, "wer_inverse_best": 0.06},
        "not testable here",
    ),
    (
        "published-wer",
        {
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "wer_selected_final": 0.055,
            "wer_inverse_best": 0.064,
        },
        "holds",
    ),
    (
        "published-wer",
        {
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "wer_selected_final": 0.07,
            "wer_inverse_best": 0.064,
        },
        "fails",
    ),
    (
        "published-wer",
        {
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "wer_selected_final": 0.04,
            "wer_inverse_best": 0.05,
        },
        "holds",
    ),
]


@pytest.mark.parametrize(("claim_id", "numbers", "verdict"), CASES)
def test_rules(claim_id, numbers, verdict):
    assert claims.decide(claim_id, numbers).verdict == verdict
    assert verdict in VERDICTS
    assert set(numbers) == set(numbers_of(RULES[claim_id]))


# Every part of the repository that shows verdicts: their records, and their intervals.
RECORDS = sorted(paths.REFERENCE.glob("*/claims/*.json"))


def contradictions(decision):
    """What a decision says against its own intervals."""
    for part in decision.parts.values():
        yield from contradictions(part)
    if decision.p is None or decision.interval is None or decision.verdict == "confounded":
        return
    low, high = decision.interval
    if decision.verdict in ("holds", "fails") and low <= 0 <= high:
        yield f"{decision.verdict} with an interval over zero"
    inside = -decision.margin < decision.narrow[0] <= decision.narrow[1] < decision.margin
    if decision.verdict == "no relevant difference" and not inside:
        yield "no relevant difference outside the margin"
    if decision.verdict == "undecided" and not low <= 0 <= high and "by Holm" not in decision.note:
        yield "undecided with an interval off zero"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_no_recorded_verdict_contradicts_its_interval(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    decision = claims.decide(found["id"], claims.from_json(found["numbers"]))
    assert decision.verdict == found["verdict"] == found["decision"]["verdict"]
    assert list(contradictions(decision)) == []
    if decision.interval is not None:
        assert found["decision"]["interval"] == pytest.approx(list(decision.interval))
    assert found["claim"] == claims.catalogue()[found["id"]].fingerprint


@pytest.mark.parametrize("folder", sorted({path.parent.parent for path in RECORDS}), ids=str)
def test_reports_show_what_the_records_say(folder):
    report = (folder / "REPORT.md").read_text(encoding="utf-8")
    for claim in claims.load(folder):
        assert list(contradictions(claim.decision)) == [] if claim.decision else True
        (line,) = [x for x in report.splitlines() if x.startswith(f"| {claim.id} | {claim.place} ")]
        assert f"**{listing.said(claim)}**" in line
