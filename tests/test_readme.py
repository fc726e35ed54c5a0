"""The README's file tree is the repository's, and its commands exist."""

import re

import declared
import pytest
import typer

from kappa_lib import paths
from kappa_lib.run.cli import app

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.partition("## File tree")[2].split("```")[1].strip("\n").splitlines()


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


@pytest.mark.parametrize("line", re.findall(r"^kappa .+?(?=  #|$)", README, re.MULTILINE))
def test_its_kappa_commands_are_grammatical(line):
    _, name, *arguments = line.split()
    command = typer.main.get_command(app).commands[name]
    assert command.make_context(name, arguments).params


def test_its_extras_are_declared():

    assert set(re.findall(r"'\.\[(\w+)\]'", README)) == set(declared.EXTRAS)
