import pytest
from made_runs import arm, write

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import report
from kappa_lib.files import read_json
from tools import readme, reference

PUBLISHED = sorted(path.parent.name for path in paths.REFERENCE.glob("*/REPORT.md"))


@pytest.fixture(scope="module")
def pages():
    return readme.pages()


@pytest.mark.parametrize("page", [readme.SPEED, readme.TABLES])
def test_a_page_shows_what_the_reference_results_say(page, pages):
    text = page.read_text(encoding="utf-8")
    assert list(pages[page]) == readme.blocks(page)
    for name, block in pages[page].items():
        assert readme.replace_block(text, name, block) == text


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_report_is_what_its_results_say(name, tmp_path):
    profile = profiles.load(f"reference/{name}")
    for part in ("claims", "figures"):
        (tmp_path / part).symlink_to(profile.folder / part)
    written = report.write(profile, tmp_path).read_text(encoding="utf-8")
    assert written == (profile.folder / report.FILE).read_text(encoding="utf-8")


def test_the_benchmark_s_table_is_that_of_its_seconds():
    measured = read_json(paths.REFERENCE / "bench" / "bench.json")
    table = readme.bench_tables(measured)
    seconds = measured["layer"]["seconds"]
    ratio = seconds["torch.linalg.svdvals, fp32"] / seconds["ours, κ alone"]
    assert f"| ours, κ alone | {seconds['ours, κ alone']:.1f} | {ratio:.1f} × |" in table


def test_a_profile_without_a_report_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    with pytest.raises(InputError, match=r"REPORT\.md"):
        reference.publish("smoke")


def test_a_readme_without_markers_is_not_written():
    with pytest.raises(InputError, match="both markers"):
        readme.replace_block("no markers here", "results", "block")


def test_the_tables_of_a_run_have_its_ends_and_its_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    found = write(tmp_path, {"selected": arm(), "inverse": arm(wer=0.2, turned=True)})
    ends, pairs, beside = report.table("run", found).split("\n\n")
    assert ends.splitlines()[2].startswith("| selected | 5 | 10.0 ± 0.1 | 10.0 ± 0.1 | 1.000 ± 0.0")
    assert "| selected − inverse | WER | 5 | -10.00 [" in pairs
    assert beside.splitlines()[2] == "| selected − inverse | alike | alike | alike |"
