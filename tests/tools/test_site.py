"""The site as a reader meets it: links, anchors, pictures, nothing from elsewhere, no errors."""

import ast
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.evidence import claims
from tools import site
from tools.mathml import Unknown, mathml

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Page(HTMLParser):
    """What a page holds: ids, links, what it loads, pictures."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded, self.images, self.text = Counter(), [], [], [], ""
        self.title, self.in_title = "", False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.in_title = tag == "title"
        self.ids.update([found["id"]] if "id" in found else [])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and "href" in found:
            self.loaded.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if "src" in found:
            self.loaded.append(found["src"])

    def handle_endtag(self, tag):
        self.in_title = self.in_title and tag != "title"

    def handle_data(self, data):
        self.text += data
        self.title += data if self.in_title else ""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    assert site.main(["--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def pages(built):
    return {path.relative_to(built).as_posix(): Page(path) for path in built.rglob("*.html")}


def test_links_and_anchors_resolve(built, pages):
    broken, anchored = [], 0
    for url, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (built / url).parent / unquote(parts.path) if parts.path else built / url
            if not target.resolve().is_file():
                broken.append((url, link))
            elif parts.fragment:
                anchored += 1
                name = target.resolve().relative_to(built.resolve()).as_posix()
                if unquote(parts.fragment) not in pages[name].ids:
                    broken.append((url, link))
    assert broken == []
    assert anchored >= len(claims.catalogue())


def test_a_page_is_titled_by_its_first_heading(pages):
    sources = {"index.html": paths.ROOT / "README.md", "article.html": paths.ROOT / "article.md"}
    sources["tables.html"] = paths.REFERENCE / "README.md"
    sources["reports/reference-study.html"] = paths.REFERENCE / "study" / "REPORT.md"
    for url, source in sources.items():
        lines = source.read_text(encoding="utf-8").splitlines()
        heading = next(line for line in lines if line.startswith("# ")).removeprefix("# ")
        assert heading.replace("`", "") in pages[url].title
    # Of the whole site, a title names one page.
    titles = Counter(page.title for page in pages.values())
    assert [title for title, number in titles.items() if number > 1] == []


def test_an_id_stands_once_on_a_page(pages):
    for url, page in pages.items():
        assert [name for name, number in page.ids.items() if number > 1] == [], url


def test_nothing_is_loaded_from_elsewhere(built, pages):
    for url, page in pages.items():
        for source in page.loaded:
            parts = urlsplit(source)
            assert parts.scheme in ("", "data"), (url, source)
            assert not parts.netloc, (url, source)
            if not parts.scheme:
                assert ((built / url).parent / unquote(parts.path)).is_file(), (url, source)
    style = (built / "style.css").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(", style)


def test_every_picture_has_alternative_text(pages):
    images = [image for page in pages.values() for image in page.images]
    assert images
    assert [image["src"] for image in images if not (image.get("alt") or "").strip()] == []


def test_every_figure_of_a_notebook_is_there(pages):
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        figures = sum("image/png" in o.get("data", {}) for o in outputs)
        images = pages[f"notebooks/{path.stem}.html"].images
        assert sum(image["alt"].startswith("Figure: ") for image in images) == figures


def test_every_claim_has_a_page_with_its_verdict(pages):
    # The study has the most runs, so the index shows its verdicts.
    for claim in claims.load(paths.REFERENCE / "study"):
        page = pages[f"claims/{claim.id}.html"]
        words = " ".join(page.text.split())
        for told in (claim.statement, claim.rule, claim.overturned_by, claim.place, claim.verdict):
            # Markdown reads marks within a text; its letters and digits stay.
            assert re.sub(r"\W", "", told) in re.sub(r"\W", "", words), (claim.id, told)
        name, cell = claim.cell.split("#")
        assert f"../notebooks/{name.removesuffix('.ipynb')}.html#{cell}" in page.links
        assert f"{claim.id}.html" in pages["claims/index.html"].links


def test_every_public_module_function_and_class_is_in_the_api(pages):
    there = {name for url, page in pages.items() if url.startswith("api/") for name in page.ids}
    for path in paths.PACKAGE.rglob("[!_]*.py"):
        module = ".".join(path.relative_to(paths.ROOT).with_suffix("").parts)
        assert module in there
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                assert f"{module}.{node.name}" in there


def test_a_profile_without_notebooks_and_a_folder_that_is_no_site_are_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="no notebooks"):
        site.build(tmp_path / "out", "never-run")
    (tmp_path / "mine").mkdir()
    assert site.main(["--out", str(tmp_path / "mine")]) == 2
    assert "is not a site" in capsys.readouterr().err
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.slow
def test_a_run_is_shown_with_its_own_notebooks(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path / "results"))
    shutil.copytree(paths.REFERENCE / "laptop", tmp_path / "results" / "mine")
    executed = tmp_path / "results" / "mine" / "notebooks"
    executed.mkdir()
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cells"][0]["source"] = "# As executed"
        (executed / path.name).write_text(json.dumps(content))
    site.build(tmp_path / "out", "mine")
    book = Page(next((tmp_path / "out" / "notebooks").glob("01_*.html")))
    assert "As executed" in book.text
    assert Page(tmp_path / "out" / "reports" / "mine.html").images


@pytest.mark.parametrize(
    ("tex", "shown"),
    [
        (r"\tfrac12\log 10", ["1", "2", "log", "10"]),
        (
            r"\sum_{i=1}^{m} \sigma_i^2 = C.",
            ["∑", "i", "=", "1", "m", "σ", "i", "2", "=", "C", "."],
        ),
        (r"\|W\|_F < \Big(x'\Big)", ["‖", "W", "‖", "F", "<", "(", "x", "′", ")"]),
        (r"X \sim \mathcal N(0, \mathbb E)", ["X", "∼", "𝒩", "(", "0", ",", "𝔼", ")"]),
        (r"\mathrm{diag}(2.5)\text{ of }a", ["diag", "(", "2.5", ")", " of ", "a"]),
    ],
)
def test_a_formula_is_well_formed_and_keeps_its_signs(tex, shown):
    tree = ElementTree.fromstring(mathml(tex))
    leaves = [e.text for e in tree.iter() if e.tag in ("mi", "mn", "mo", "mtext")]
    assert leaves == shown
    for element in tree.iter():
        parts = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "msubsup": 3, "munderover": 3}
        assert len(element) == parts.get(element.tag, len(element))


@pytest.mark.parametrize("tex", [r"\frac1", r"\unheard x", "{x", "x_", "}"])
def test_a_formula_that_cannot_be_drawn_says_so(tex):
    with pytest.raises(Unknown):
        mathml(tex)


def test_every_formula_of_the_notebooks_is_drawn(built):
    sources = "".join(path.read_text(encoding="utf-8") for path in built.rglob("*.html"))
    assert sources.count("<math") > 100
    assert 'class="tex"' not in sources


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_pages_open_in_a_browser_without_console_errors(built, pages, tmp_path):
    notebooks = sorted(url for url in pages if url.startswith("notebooks/"))
    chosen = ["index.html", "claims/index.html", "reports/reference-study.html", notebooks[0]]
    # The last shows that a message on the console would be seen.
    broken = built / "broken.html"
    broken.write_text("<title>x</title><p>x<script>console.error('as it should')</script>")
    for url in [*chosen, broken.name]:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
        ran = subprocess.run(
            [*command, (built / url).as_uri()], capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
        assert "</html>" in ran.stdout
        messages = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
        assert bool(messages) == (url == broken.name), messages
