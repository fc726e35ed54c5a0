"""The package's rooms: what each may import, and that each says its job."""

import ast
from pathlib import Path

import pytest

import kappa_lib

PACKAGE = Path(kappa_lib.__file__).parent
# Each may import those before it; "ground" are the modules that lie in the package itself.
ORDER = (
    "ground",
    "theory",
    "weights",
    "spectra",
    "speech",
    "training",
    "encoding",
    "figures",
    "evidence",
    "run",
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "ground"


def imports(path):
    """Modules of the package that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in NAMES)
        elif isinstance(node, ast.ImportFrom) and node.module in NAMES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in NAMES else node.module


def test_every_folder_is_a_room_with_a_job():
    folders = {p.parent.name for p in MODULES if p.parent != PACKAGE}
    assert folders == set(ORDER) - {"ground"}
    for name in folders:
        docstring = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text()))
        assert docstring, f"{name}/__init__.py does not say what the room is for"
        assert len(docstring.splitlines()) == 1


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_import_goes_back_up(path):
    here = ORDER.index(room(module_name(path)))
    upward = [name for name in imports(path) if ORDER.index(room(name)) > here]
    assert not upward, f"{module_name(path)} ({room(module_name(path))}) imports {upward}"


def test_no_modules_import_each_other_in_a_circle():
    wanted = {module_name(path): set(imports(path)) - {module_name(path)} for path in MODULES}
    done = set()

    def walk(name, trail):
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for following in sorted(wanted[name]):
                walk(following, (*trail, name))
            done.add(name)

    for name in sorted(wanted):
        walk(name, ())


def test_an_arrow_upwards_would_be_seen(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def late():\n    from kappa_lib.run import cli\n")
    assert list(imports(broken)) == ["kappa_lib.run.cli"]
