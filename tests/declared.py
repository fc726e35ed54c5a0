"""What ``pyproject.toml`` declares, and what that pulls in by the installed packages' metadata."""

import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kappa_lib import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def core() -> list[Requirement]:
    """The direct dependencies of an installation without extras."""
    return [Requirement(line) for line in PROJECT["dependencies"]]


def everything() -> list[Requirement]:
    """The direct dependencies of all extras, and the core's."""
    lines = [line for extra in EXTRAS.values() for line in extra]
    return core() + [Requirement(line) for line in lines if not line.startswith("kappa-lib")]


def names(requirements) -> set[str]:
    """Canonical names of requirements."""
    return {canonicalize_name(requirement.name) for requirement in requirements}


def closure(direct) -> set[str]:
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
