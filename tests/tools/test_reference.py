import re

import pandas as pd
import pytest

from kappa_lib import paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.evidence import report
from kappa_lib.files import read_json
from tools import readme, reference

PUBLISHED = sorted(path.parent.name for path in paths.REFERENCE.glob("*/REPORT.md"))


def test_pages_show_what_the_reference_results_say(monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(paths.REFERENCE))
    for page, found in reference.pages().items():
        text = page.read_text(encoding="utf-8")
        assert set(found) == set(re.findall(r"<!-- (\w+): generated", text))
        for name, block in found.items():
            assert readme.replace_block(text, name, block) == text


def test_the_benchmark_s_table_is_that_of_its_seconds():
    measured = read_json(paths.REFERENCE / "bench" / "bench.json")
    table = reference.bench_table(measured)
    seconds = measured["layer"]["seconds"]
    ratio = seconds["torch.linalg.svdvals, fp32"] / seconds["ours, κ alone"]
    assert f"| ours, κ alone | {seconds['ours, κ alone']:.1f} | {ratio:.1f} × |" in table


@pytest.mark.parametrize("page", [paths.ROOT / "README.md", reference.TABLES])
def test_pictures_and_links_of_a_page_exist(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert targets
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_report_has_its_pictures(name):
    folder = paths.REFERENCE / name
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / report.FILE).read_text())
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


def test_a_profile_without_a_report_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    with pytest.raises(InputError, match=r"REPORT\.md"):
        reference.publish("smoke")


def test_a_readme_without_markers_is_not_written():
    with pytest.raises(InputError, match="both markers"):
        readme.replace_block("no markers here", "results", "block")


def test_a_turn_is_told_at_every_evaluation(monkeypatch):
    rows = [
        {"arm": arm, "seed": seed, "step": step, "train_loss": 1.0 + seed, "wer_mean": 0.5}
        | {"text_loss": 3.0, "kl": 0.1 * seed}
        for step in (0, 30, 60)
        for arm in ("selected", "inverse_matched_size")
        for seed in (1, 2)
    ]
    monkeypatch.setattr(readme.tables, "results", lambda profile: pd.DataFrame(rows))
    monkeypatch.setattr(readme, "_pairs", lambda profile: "the pair")
    _, _, *found, _, pair = readme.turn(profiles.load("turn")).splitlines()
    assert pair == "the pair"
    assert len(found) == 2 + 4
    assert found[2] == (
        "| 30 | selected | 2 | 2.50 ± 0.71 | 50.0 ± 0.0 | 3.000 ± 0.000 | 0.150 ± 0.071 |"
    )


def test_a_pilot_is_told_by_rate_with_the_lowest_loss_bold(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    assert readme._pilot(profiles.load("turn")) == []
    (tmp_path / "turn").mkdir()
    rows = "arm,lr,heldout_loss\na,0.0004,2.1\na,0.0002,2.0\nb,0.0002,1.5\nb,0.0004,1.25\n"
    (tmp_path / "turn" / "pilot.csv").write_text(rows)
    said, table = readme._pilot(profiles.load("turn"))
    assert said.endswith("the runs took 0.0002:")
    assert table.splitlines() == [
        "| arm | 0.0002 | 0.0004 |",
        "|---|---|---|",
        "| a | **2.000** | 2.100 |",
        "| b | 1.500 | **1.250** |",
    ]


def test_texts_disagree_where_one_s_difference_is_another_s_neither_in_loss_nor_in_kl_alone():
    def found(**of):
        rows = [("a − b", seed, k, v + 1e-3 * seed) for k, vs in of.items() for seed, v in vs]
        return pd.DataFrame(rows, columns=["pair", "seed", "outcome", "difference"])

    def each(*values):
        return list(enumerate(values, 1))

    up, down = each(0.1, 0.1, 0.11), each(-0.1, -0.1, -0.11)
    # One loss up and another text's KL down: two outcomes, of which neither says two things.
    parts = {"text german": up, "text english": up, "kl german": down, "kl english": down}
    assert not readme.disagree(found(**parts))
    assert readme.disagree(found(**parts | {"kl german": each(0.0, 0.01, 0.0)}))
    wide = each(-0.5, 0.9, 0.1)
    assert not readme.disagree(found(**parts | {"kl german": wide}))
