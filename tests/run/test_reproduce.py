"""reproduce.sh on a stub of the project: what it installs when, hands on, and refuses."""

import os
import shutil
import subprocess

import pytest

from kappa_lib import paths
from tools import environment

RUNNER = (
    "import os, sys; print('RUN', *sys.argv[1:], os.environ['KAPPA_INSTALL_SECONDS'], sys.prefix)"
)
PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "kappa-lib"
version = "0"

[tool.setuptools]
packages = ["kappa_lib"]
"""


@pytest.fixture
def project(tmp_path):
    """A folder with the real script and as little as it needs around it."""
    root = tmp_path / "a clone"
    for folder in ("kappa_lib/run", "benchmarks", "kappa_lib/data/profiles"):
        (root / folder).mkdir(parents=True)
    shutil.copy(paths.ROOT / "reproduce.sh", root)
    for name in ("laptop", "smoke"):
        (root / "kappa_lib" / "data" / "profiles" / f"{name}.yaml").touch()
    setuptools = next(pin for pin in environment.pins() if pin.name == "setuptools")
    (root / "requirements.lock").write_text(f"{setuptools}\n")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "kappa_lib" / "__init__.py").touch()
    (root / "kappa_lib" / "run" / "cli.py").write_text(RUNNER)
    (root / "benchmarks" / "bench.py").write_text(RUNNER)
    (root / "sphinx.py").write_text(RUNNER)
    return root


def call(root, *arguments, **environment):
    return subprocess.run(
        ["bash", str(root / "reproduce.sh"), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.slow
def test_it_installs_until_that_succeeded_and_again_when_the_lock_changes(project):
    good = (project / "requirements.lock").read_text()
    (project / "requirements.lock").write_text("no-such-package-as-this==1\n")
    failed = call(project, PIP_NO_INDEX="1")
    assert failed.returncode == 1
    assert "could not be installed" in failed.stderr
    assert "RUN" not in failed.stdout

    (project / "requirements.lock").write_text(good)
    # What another environment has is not what this one has.
    other = project / "other" / f"{good.strip().replace('==', '-')}.dist-info"
    other.mkdir(parents=True)
    name, version = good.strip().split("==")
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    first = call(project, PYTHONPATH=str(other.parent))
    assert first.returncode == 0, first.stderr
    assert "== installing" in first.stdout
    assert "== making .venv" not in first.stdout
    words = first.stdout.splitlines()[-1].split(maxsplit=5)
    assert words[:4] == ["RUN", "run", "--profile", "laptop"]
    assert int(words[4]) > 0
    assert words[5] == str(project / ".venv")

    options = ["--set", "seeds=[0, 1]", "--only", "04"]
    second = call(project, "run", "--profile", "smoke", *options)
    expected = "RUN run --profile smoke --set seeds=[0, 1] --only 04"
    assert second.stdout.startswith(expected)

    assert call(project, "bench", "--divide", "8").stdout.startswith("RUN --divide 8")

    assert call(project, "site").stdout.startswith("RUN -q -b html")

    (project / "requirements.lock").write_text(good + "# another comment\n")
    assert "== installing" in call(project).stdout


PYTEST = """\
import os, sys
print("PYTEST", *sys.argv[1:], "aside" if "KAPPA_RESULTS" in os.environ else "here")
sys.exit(os.environ.get("FAILING", "none") in " ".join(sys.argv))
"""


@pytest.mark.slow
def test_every_notebook_is_tested_once_and_a_failure_aside_is_told(project, tmp_path):
    (project / "ruff.py").touch()
    (project / "pytest.py").write_text(PYTEST)
    (project / "notebooks").mkdir()
    for name in ("01_a", "03_b", "04_c", "05_d"):
        (project / "notebooks" / f"{name}.ipynb").touch()
    (tmp_path / "scratch").mkdir()
    without = {key: value for key, value in os.environ.items() if key != "KAPPA_RESULTS"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", without)
        passed = call(project, "test", TMPDIR=str(tmp_path / "scratch"))
        failed = call(project, "test", FAILING="04_c", TMPDIR=str(tmp_path / "scratch"))
    assert passed.returncode == 0
    assert "reproduce.sh: failed" not in passed.stderr
    told = [line for line in passed.stdout.splitlines() if line.startswith("PYTEST --nbval")]
    assert sorted(told) == [
        "PYTEST --nbval notebooks/01_a.ipynb notebooks/05_d.ipynb here",
        "PYTEST --nbval-lax notebooks/03_b.ipynb here",
        "PYTEST --nbval-lax notebooks/04_c.ipynb aside",
    ]
    assert failed.returncode == 1
    assert failed.stderr.endswith("reproduce.sh: failed: notebooks-aside\n")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_help_is_the_header_and_needs_nothing(project):
    shown = call(project, "--help")
    assert shown.returncode == 0
    for word in ("What it needs:", "What it does:", "How long:", "lab", "test", "site"):
        assert word in shown.stdout
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "python", "message"),
    [
        (["everything"], "", "unknown argument 'everything'"),
        (["--profile"], "", "--profile needs a name"),
        (["--profile", "huge"], "", "there is no profile 'huge'"),
        (["run", "test"], "", "one command at a time"),
        (["--profile", "smoke", "test"], "", "test takes no --profile, --set or --only"),
        (["site", "--set", "steps=3"], "", "site takes no --profile, --set or --only"),
        ([], "false", "PYTHON=false is not a Python 3.11 or newer"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_installed(project, arguments, python, message):
    refused = call(project, *arguments, PYTHON=python)
    assert refused.returncode == (1 if python else 2)
    assert message in refused.stderr
    assert not (project / ".venv").exists()
