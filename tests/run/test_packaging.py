"""The declarations of what to install agree with each other and with what is installed."""

import ast
import re
import sys
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kappa_lib import __version__, paths
from kappa_lib.errors import InputError
from kappa_lib.run import lock

PINS = {canonicalize_name(pin.name): pin for pin in lock.pins()}


def closure(direct):
    """Names that installed packages' own metadata ask for on this platform, direct included."""
    seen, waiting = set(), [(dependency, "") for dependency in direct]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ["", *requirement.extras]:
            key = (canonicalize_name(requirement.name), wanted)
            if key in seen:
                continue
            seen.add(key)
            children = metadata.requires(requirement.name) or []
            waiting += [(Requirement(child), wanted) for child in children]
    return {name for name, _ in seen}


def test_every_direct_dependency_is_pinned_within_its_range():
    for dependency in lock.dependencies():
        pin = PINS[canonicalize_name(dependency.name)]
        version = next(iter(pin.specifier)).version
        assert dependency.specifier.contains(version), f"{dependency} against {pin}"


def test_the_lock_is_the_closure_of_the_direct_dependencies():
    # The default Linux build of torch asks for CUDA libraries, which torch itself pins.
    cuda = re.compile(r"^(nvidia-|cuda-|triton)")
    wanted = {name for name in closure(lock.dependencies()) if not cuda.match(name)}
    here = {name for name, pin in PINS.items() if not pin.marker or pin.marker.evaluate()}
    assert wanted == here


def imported(folder):
    """Top-level names of the third-party modules that the code in a folder imports."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    own = {"kappa_lib", "benchmarks", "tools"}
    own |= {path.stem for path in (paths.ROOT / "tests").rglob("*.py")}
    return names - own - set(sys.stdlib_module_names)


def test_everything_that_is_imported_is_declared():
    providers = metadata.packages_distributions()
    declared = {canonicalize_name(dependency.name) for dependency in lock.dependencies()}
    folders = ("kappa_lib", "tests", "benchmarks", "tools")
    for module in set().union(*(imported(paths.ROOT / folder) for folder in folders)):
        distributions = {canonicalize_name(name) for name in providers.get(module, [])}
        assert distributions & declared, f"{module} is imported and not declared in pyproject.toml"


def test_installed_versions_are_the_pinned_ones():
    assert lock.drift() == []


def test_torch_is_the_release_that_every_machine_can_have():
    assert str(PINS["torch"].specifier) == "==2.13.0"


def test_names_in_the_lock_are_unique_and_sorted():
    names = [canonicalize_name(pin.name) for pin in lock.pins()]
    assert names == sorted(set(names))


def test_environment_yml_has_the_pins_of_the_lock():
    content = yaml.safe_load(lock.ENVIRONMENT.read_text(encoding="utf-8"))
    python, pip, section = content["dependencies"]
    assert pip == "pip"
    minimum = re.search(r'requires-python = ">=(.*)"', lock.PYPROJECT.read_text()).group(1)
    assert python == f"python={minimum}"
    *pinned, package = section["pip"]
    assert package == "-e ."
    assert [str(Requirement(line)) for line in pinned] == [str(pin) for pin in lock.pins()]


def test_environment_yml_is_what_the_lock_generates():
    assert lock.ENVIRONMENT.read_text(encoding="utf-8") == lock.environment_yml()


def test_a_line_that_is_not_an_exact_pin_is_named(tmp_path):
    loose = tmp_path / "loose.lock"
    loose.write_text("# comment\nnumpy>=2\n")
    with pytest.raises(InputError, match="numpy>=2 is not an exact pin"):
        lock.pins(loose)


def test_drift_names_packages_that_differ_or_are_missing(tmp_path):
    other = tmp_path / "other.lock"
    other.write_text("numpy==0.0.1\nno-such-package-here==1\nabsent==1 ; python_version < '3'\n")
    different, missing = lock.drift(other)
    assert different == f"numpy is {metadata.version('numpy')}, pinned ==0.0.1"
    assert missing == "no-such-package-here is missing, pinned ==1"


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata.version("kappa-lib") == __version__ == citation["version"]


def test_citation_names_the_paper():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert paper["authors"][0] == {"family-names": "Ludwig", "given-names": "Oswaldo"}
    assert paper["identifiers"][0]["value"] == "arXiv:2506.16289"
    assert citation["license"] == metadata.metadata("kappa-lib")["License-Expression"]
