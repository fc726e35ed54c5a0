"""The site as a reader meets it: links, formulas, pictures, nothing from elsewhere, no errors."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from kappa_lib import paths
from kappa_lib.evidence import claims

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Page(HTMLParser):
    """What a page holds: ids, links, what it loads, pictures, formulas."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded, self.images, self.formulas = set(), [], [], [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        self.formulas += tag == "math"
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if "src" in found or (tag == "link" and found.get("rel") == "stylesheet"):
            self.loaded.append(found.get("src") or found["href"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    # A link to a page, file or heading that is not there is a warning, so an error here.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    ran = subprocess.run(
        [*command, "-c", "docs", ".", str(out)], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return out


@pytest.fixture(scope="module")
def pages(built):
    # The theme leaves a template of its own among its scripts.
    found = [path for path in built.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(built).as_posix(): Page(path) for path in found}


def test_every_page_of_the_repository_is_there(pages):
    sources = ["README.md", "article.md", "results/reference/README.md"]
    sources += [f"docs/{path.name}" for path in (paths.ROOT / "docs").glob("*.md")]
    sources += [f"notebooks/{path.name}" for path in paths.NOTEBOOKS.glob("*.ipynb")]
    missing = [s for s in sources if f"{s.rpartition('.')[0]}.html" not in pages]
    assert missing == []
    assert "README.html" in (paths.ROOT / "docs" / "index.html").read_text(encoding="utf-8")


def test_links_lead_to_files_and_anchors_that_are_there(built, pages):
    broken = []
    for url, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (built / url).parent / unquote(parts.path) if parts.path else built / url
            if not target.resolve().is_file():
                broken.append((url, link))
            elif parts.fragment and target.suffix == ".html":
                there = pages[target.resolve().relative_to(built.resolve()).as_posix()].ids
                if unquote(parts.fragment) not in there:
                    broken.append((url, link))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(built, pages):
    for url, page in pages.items():
        for source in page.loaded:
            parts = urlsplit(source)
            assert not parts.netloc, (url, source)
            if parts.scheme != "data":
                assert ((built / url).parent / unquote(parts.path)).is_file(), (url, source)
    for style in built.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text("utf-8"))


def test_every_figure_of_a_notebook_is_there_and_described(pages):
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        figures = sum("image/png" in o.get("data", {}) for o in outputs)
        assert len(pages[f"notebooks/{path.stem}.html"].images) == figures
    written = [url for url in pages if not url.endswith("REPORT.html")]
    images = [(url, image) for url in written for image in pages[url].images]
    bare = [url for url, image in images if len((image.get("alt") or "").split()) < 2]
    assert bare == []


def test_formulas_are_mathml(pages):
    # One that docutils cannot draw ends the build.
    assert pages["notebooks/01_entropy_and_condition_number.html"].formulas > 50


def test_every_claim_leads_to_the_cell_that_decides_it(pages):
    links = pages["docs/claims.html"].links
    for claim in claims.load(paths.REFERENCE / "study"):
        name, cell = claim.cell.split("#")
        assert f"../notebooks/{name.removesuffix('.ipynb')}.html#{cell}" in links


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_pages_open_in_a_browser_without_console_errors(built, tmp_path):
    # The last shows that a message on the console would be seen.
    (built / "broken.html").write_text("<title>x</title><script>console.error('yes')</script>")
    notebook = "notebooks/01_entropy_and_condition_number.html"
    for url in ("README.html", notebook, "docs/claims.html", "broken.html"):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
        ran = subprocess.run(
            [*command, (built / url).as_uri()], capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
        # The theme tells the console, each time, which mode it has chosen.
        lines = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
        messages = [line for line in lines if "[PST]" not in line]
        assert bool(messages) == (url == "broken.html"), messages
