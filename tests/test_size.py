"""The library stays small enough to be read: lines and modules may become fewer, and not more."""

from kappa_lib import paths

# Lower these as the library becomes smaller.
LINES, MODULES = 10_882, 66
LONGEST = 320  # lines of a module, which has one job
BESIDE = 1_300  # lines of tools and benchmarks together


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_package_is_no_larger_than_it_was():
    modules = sorted(paths.PACKAGE.rglob("*.py"))
    assert sum(map(lines, modules)) <= LINES
    assert sum(path.name != "__init__.py" for path in modules) <= MODULES


def test_no_module_is_too_long_to_be_read_at_once():
    assert [str(p) for p in paths.PACKAGE.rglob("*.py") if lines(p) > LONGEST] == []


def test_what_stands_beside_the_package_is_small():
    files = [path for folder in ("tools", "benchmarks") for path in (paths.ROOT / folder).iterdir()]
    assert sum(lines(path) for path in files if path.is_file()) <= BESIDE
