import re

import pytest

from kappa_lib import paths, profiles, reference, report
from kappa_lib.errors import InputError

PUBLISHED = sorted(path.name for path in reference.REFERENCE.glob("*"))


def test_the_readme_shows_what_the_reference_results_say(monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(reference.REFERENCE))
    readme = reference.README.read_text(encoding="utf-8")
    shown = readme.split(report.BEGIN)[1].split(report.END)[0].strip()
    assert shown == report.headline(profiles.load("laptop"))


def test_pictures_and_links_of_the_readme_exist():
    readme = reference.README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", readme)
    assert targets
    missing = [t for t in targets if "://" not in t and not (paths.ROOT / t).exists()]
    assert missing == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_report_has_its_pictures(name):
    folder = reference.REFERENCE / name
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / report.FILE).read_text())
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


def test_a_profile_without_a_report_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    with pytest.raises(InputError, match=r"REPORT\.md"):
        reference.publish(profiles.load("smoke"))


def test_a_readme_without_markers_is_not_written():
    with pytest.raises(ValueError, match="markers"):
        report.replace_block("no markers here", "block")
