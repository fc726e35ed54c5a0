"""The page of a scan, read by an HTML parser and held to the table."""

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from declared import EXTRAS
from safetensors.torch import save_file

from kappa_lib.figures import kappa as figures
from kappa_lib.figures import page
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.spectra.compare import compare
from kappa_lib.spectra.scan import scan

SHAPES = {"self_attn.q_proj": (12, 12), "self_attn.v_proj": (4, 12), "mlp.up_proj": (24, 12)}
VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes, the cells of every table row, text; refuses wrong nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.text, self._open = [], [], "", []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape, generator=generator)
        for layer in range(4)
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    before = weights()
    after = {n: 2 * t if "v_proj" in n else t for n, t in before.items()} | {
        "model.layers.9.<i>.weight": torch.eye(3)
    }
    save_file(before, folder / "a<b>&.safetensors")
    save_file(after, folder / "after.safetensors")
    table = scan(folder / "a<b>&.safetensors", folder / "out", device="cpu")
    changes = compare(folder / "a<b>&.safetensors", folder / "after.safetensors", device="cpu")
    written = page.write(table, folder / "out", changes)
    return table, changes, written, Page(written.read_text(encoding="utf-8"))


def test_it_is_one_small_file_without_references(scanned):
    _, _, written, found = scanned
    assert written.stat().st_size < 1_000_000
    names = {name for name, _ in found.elements}
    assert not names & {"script", "link", "iframe", "object"}
    for name, attributes in found.elements:
        for key in ("src", "srcset", *(("href",) if name != "a" else ())):  # nothing is fetched
            assert attributes.get(key, "data:image/png;base64,").startswith("data:image/png;")
    style = written.read_text(encoding="utf-8").partition("</style>")[0]
    assert not re.search(r"url\(|@import|http", style)


def test_every_picture_has_words(scanned):
    images = scanned[3].of("img")
    assert len(images) == 5
    for image in images:
        assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
        assert len(image["alt"]) > 20


def test_its_numbers_are_the_table_s(scanned):
    table, changes, _, found = scanned
    rows = {tuple(row) for row in found.rows}
    for kind, kappas in table.groupby("type")["kappa"]:
        (row,) = [r for r in rows if r[:2] == (kind, str(len(kappas))) and len(r) == 7]
        told = [f"{f(kappas):.3g}" for f in (np.min, np.median, np.max)]
        assert [*map(float, row[2:5])] == [*map(float, told)]
    worst = table.loc[table["kappa"].idxmax()]
    told = float(f"{worst['kappa']:.3g}")
    assert any(r[0] == worst["tensor"] and float(r[3]) == told for r in rows)
    for arm, chosen in page.proposed(table).items():
        assert f"{chosen.parameters:,}" in next(r for r in rows if r[0] == "all")
        assert (
            f"ranking by shape alone would pick {selection.picked_by_shape(table, chosen):.1f}"
            in (found.text)
        ), arm
    summary = changes.summary()
    for row in summary.itertuples():
        assert any(r[0] == row.type and page.number(row.dlogkappa) in r for r in rows)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (2.3456, "2.35"),
        (24.97, "25.0"),
        (99.96, "100"),
        (1921.3, "1,920"),
        (98765.0, "98,800"),
        (3.14e-9, "3.1e-09"),
        (-0.01234, "-0.0123"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_rounded_alike(value, said):
    assert page.number(value) == said


def test_names_from_files_are_escaped(scanned):
    _, changes, written, found = scanned
    text = written.read_text(encoding="utf-8")
    assert "<i>" not in text
    assert "<b>&" not in text
    assert changes.only_after == ["model.layers.9.<i>.weight"]
    assert f"Only in the second, {changes.after}: model.layers.9.<i>.weight." in found.text


@pytest.mark.parametrize("prefix", ["model.layers", "embed"])
def test_tables_that_allow_no_selection_have_a_page(prefix, tmp_path):
    save_file({f"{prefix}.0.mlp.up_proj.weight": torch.eye(3)}, tmp_path / "one.safetensors")
    table = scan(tmp_path / "one.safetensors", device="cpu")
    found = Page(page.write(table, tmp_path).read_text(encoding="utf-8"))
    assert "proposed selection" not in found.text
    assert ["up_proj", "1", "1.00", "1.00", "1.00"] in [row[:5] for row in found.rows]


def test_more_module_types_than_colours_are_all_drawn(tmp_path):
    drawn = kappa_table.null_table({f"t{n}_proj": (8 + n, 8) for n in range(11)}, 2)
    parts = {"all": kappa_table.composition(drawn, drawn["tensor"].tolist())}
    assert len({c for c in figures.type_colours(kappa_table.types(drawn)).values()}) == 11
    assert sum(len(x.get_xdata()) for x in figures.against_null(drawn).axes[0].lines[:-1]) == 22
    assert len(figures.compositions(parts).axes[0].patches) == 11


CODE = """
import sys
sys.modules["matplotlib"] = None
from kappa_lib.run import cli
sys.exit(cli.main(["scan", sys.argv[1], "-o", sys.argv[2], "--device", "cpu"]))
"""


def test_without_matplotlib_there_are_tables_and_a_line(tmp_path):
    save_file(weights(), tmp_path / "a.safetensors")
    command = [sys.executable, "-c", CODE, str(tmp_path / "a.safetensors"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kappa.html: to look at in a browser" in done.stdout
    text = (tmp_path / "out" / "kappa.html").read_text(encoding="utf-8")
    assert Page(text).of("img") == []
    assert "without pictures" in text
    assert "The proposed selection" in text
    assert any(line.startswith("matplotlib") for line in EXTRAS["speech"])
