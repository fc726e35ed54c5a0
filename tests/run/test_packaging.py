"""The declarations of what to install agree with each other and with what is installed."""

import ast
import re
import subprocess
import sys
from importlib import metadata

import nbformat
import pytest
import yaml
from declared import closure, core, everything, names
from IPython.core.inputtransformer2 import TransformerManager
from packaging.utils import canonicalize_name

from kappa_lib import __version__, paths
from kappa_lib.errors import InputError
from kappa_lib.files import read_json
from kappa_lib.run.runner import sources
from tools import environment

PROVIDERS = metadata.packages_distributions()
PINS = {canonicalize_name(pin.name): pin for pin in environment.pins()}


def test_every_direct_dependency_is_pinned_within_its_range():
    for dependency in everything():
        pin = PINS[canonicalize_name(dependency.name)]
        version = next(iter(pin.specifier)).version
        assert dependency.specifier.contains(version), f"{dependency} against {pin}"


def test_the_lock_is_the_closure_of_the_direct_dependencies():
    # The default Linux build of torch asks for CUDA libraries, which torch itself pins.
    cuda = re.compile(r"^(nvidia-|cuda-|triton)")
    wanted = {name for name in closure(everything()) if not cuda.match(name)}
    here = {name for name, pin in PINS.items() if not pin.marker or pin.marker.evaluate()}
    assert wanted == here


def test_what_installing_and_the_site_leave_behind_is_no_change_of_the_clone():
    """A run says whether its clone was clean; pip builds in it, and myst-nb executes there."""
    ignored = (paths.ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/build/", "/jupyter_execute/", "/site/", "*.egg-info/"} <= set(ignored)


def third_party(nodes):
    """Top-level names of the third-party modules that import statements among the nodes import."""
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.partition(".")[0])
    own = {"kappa_lib", "benchmarks", "tools"}
    own |= {path.stem for path in (paths.ROOT / "tests").rglob("*.py")}
    return modules - own - set(sys.stdlib_module_names)


def undeclared(modules, requirements):
    """Modules that come from none of the requirements."""
    found = {m: {canonicalize_name(name) for name in PROVIDERS.get(m, [])} for m in modules}
    return {m for m, distributions in found.items() if not distributions & names(requirements)}


@pytest.mark.parametrize("folder", ["kappa_lib", "tests", "benchmarks", "tools", "notebooks"])
def test_everything_that_is_imported_is_declared(folder):
    trees = [parse(path) for path in (paths.ROOT / folder).rglob("*.py")]
    for path in sources() if folder == "notebooks" else []:
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        trees += [ast.parse(TransformerManager().transform_cell(source)) for source in cells]
    nodes = (node for tree in trees for node in ast.walk(tree))
    assert undeclared(third_party(nodes), everything()) == set()


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


# What `kappa scan` and `kappa select` begin with.
LIGHT = (
    "run.cli",
    "spectra.scan",
    "spectra.compare",
    "figures.page",
    "spectra.kappa_table",
    "spectra.selection",
    "weights.models",
)


def file_of(module):
    base = paths.ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def on_import(path):
    """Statements that run when a module is imported: not those of functions, nor for types."""
    waiting = list(parse(path).body)
    while waiting:
        node = waiting.pop()
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            waiting += ast.iter_child_nodes(node)


def test_what_a_scan_imports_is_in_the_core():
    seen, waiting = set(), [f"kappa_lib.{module}" for module in LIGHT]
    while waiting:
        module = waiting.pop()
        if module in seen or (path := file_of(module)) is None:
            continue
        seen.add(module)
        nodes = list(on_import(path))
        assert undeclared(third_party(nodes), core()) == set(), module
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    assert "kappa_lib.spectra.solvers" in seen


def test_names_in_the_lock_are_unique_and_sorted():
    names = [canonicalize_name(pin.name) for pin in environment.pins()]
    assert names == sorted(set(names))


def test_environment_yml_is_what_the_lock_generates():
    assert environment.ENVIRONMENT.read_text(encoding="utf-8") == environment.environment_yml()


def test_a_line_that_is_not_an_exact_pin_is_named(tmp_path):
    loose = tmp_path / "loose.lock"
    loose.write_text("# comment\nnumpy>=2\n")
    with pytest.raises(InputError, match="numpy>=2 is not an exact pin"):
        environment.pins(loose)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata.version("kappa-lib") == __version__ == citation["version"]


def test_the_core_s_lower_bounds_are_the_releases_that_were_tested():
    record = read_json(paths.REFERENCE / "oldest.json")
    lower = {r.name: s.version for r in core() for s in r.specifier if s.operator == ">="}
    assert lower == record["oldest"]
    assert re.match(r"\d+ passed", record["result"])
    # Of torch the pinned release was run; see the script.
    run = dict(line.split("==") for line in record["run"])
    assert run == lower | {"torch": next(iter(PINS["torch"].specifier)).version}


def test_no_filter_of_warnings_is_installed():
    code = "import warnings; before = list(warnings.filters); import kappa_lib;"
    code += "assert warnings.filters == before"
    subprocess.run([sys.executable, "-c", code], check=True)
