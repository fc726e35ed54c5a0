"""The two theory notebooks can be searched by the paper's own numbers, and stay exact."""

import re

import nbformat
import pytest

from kappa_lib import paths

FIRST = "01_entropy_and_condition_number.ipynb"
SECOND = "02_theorem_and_what_kappa_cannot_see.ipynb"
NOTEBOOKS = {
    name: nbformat.read(paths.NOTEBOOKS / name, as_version=4).cells for name in (FIRST, SECOND)
}
TEXT = {name: "\n".join(cell.source for cell in cells) for name, cells in NOTEBOOKS.items()}


STATEMENTS = ["Theorem 1", "Proposition 1", "Remark 1", "Conjecture 1", "Remark 2", "Lagrangian"]
EQUATIONS = [text.format(n) for n in range(1, 13) for text in ("Eq. ({})", "\\tag{{{}}}")]


@pytest.mark.parametrize("name", [*STATEMENTS, *EQUATIONS])
def test_every_equation_and_statement_of_the_paper_is_found(name):
    assert name in "\n".join(TEXT.values())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_printed_numbers_are_rounded(name):
    for cell in NOTEBOOKS[name]:
        for output in cell.get("outputs", []):
            long = re.findall(r"\d\.\d{7,}", output.get("text", ""))
            assert not long, f"{cell.id} prints {long}: more digits than are stable"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_escapes_the_comparison(name):
    ignored = [c.id for c in NOTEBOOKS[name] if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert not ignored
    assert "NBVAL_" not in TEXT[name]
