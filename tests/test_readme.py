"""The file tree is the repository's; commands, extras and Python of the pages exist and run."""

import re

import declared
import pytest
import typer

from kappa_lib import paths
from kappa_lib.run.cli import app

DOCS = paths.ROOT / "docs"
README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
PAGES = "\n".join([README, *(p.read_text(encoding="utf-8") for p in sorted(DOCS.glob("*.md")))])
TREE = PAGES.partition("## File tree")[2].split("```")[1].strip("\n").splitlines()


def entries():
    """(folder, name) of every name in the tree, a folder's ending in ``/``."""
    folder = ""
    for line in TREE:
        indent, names = re.match(r"( *)(.+?)(?:  |$)", line).groups()
        folder = folder if indent else ""
        yield from ((folder, name) for name in names.split())
        if not indent and names.endswith("/"):
            folder = names


def test_everything_in_the_tree_exists():
    missing = [
        folder + name for folder, name in entries() if not (paths.ROOT / folder / name).exists()
    ]
    assert missing == []


def test_every_room_and_ground_module_is_in_the_tree():
    listed = {name for folder, name in entries() if folder == "kappa_lib/"}
    rooms = {f"{path.parent.name}/" for path in paths.PACKAGE.glob("*/__init__.py")}
    modules = {path.name for path in paths.PACKAGE.glob("*.py")} - {"__init__.py"}
    assert rooms | modules | {"data/"} == listed


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^(?:.*&& )?(kappa [a-z-]+ .+?)(?= +#|$)", PAGES, re.M)))
)
def test_its_kappa_commands_are_grammatical(line):
    _, name, *arguments = line.split()
    command = typer.main.get_command(app).commands[name]
    assert command.make_context(name, arguments).params


def test_its_extras_are_declared():
    assert set(re.findall(r"'\.\[(\w+)\]'", PAGES)) == set(declared.EXTRAS)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_its_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (paths.ROOT / page).read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(block, names)
    assert capsys.readouterr().out
