"""The package installed from a wheel, away from the clone and without the extras."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from declared import closure, core
from safetensors.torch import save_file

from kappa_lib import __version__, paths

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the sources that a clone holds, built outside it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(paths.ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(paths.ROOT / "kappa_lib", source / "kappa_lib", ignore=unwanted)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "-q", *build, str(source)], check=True)
    (made,) = out.glob("kappa_lib-*.whl")
    return made


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """An environment with the distributions of the core dependencies' closure and no others."""
    root = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(root / "bin" / "python"), "install"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(root)}))
    for name in closure(core()):
        distribution = metadata.distribution(name)
        tops = {Path(file).parts[0] for file in distribution.files} - {"..", "__pycache__"}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return root


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with a small checkpoint, and what NumPy says of its κ."""
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{n}.{kind}.weight" for n in range(3) for kind in ("mlp.up_proj", "k")]
    names = [name.replace(".k.", ".self_attn.k_proj.") for name in names]
    tensors = {name: torch.randn(24, 12, generator=generator) for name in names}
    save_file(tensors, tmp_path / "mine.safetensors")
    return tmp_path, {name: np.linalg.cond(t.double().numpy()) for name, t in tensors.items()}


def call(root, folder, *arguments, program="kappa"):
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KAPPA_RESULTS")}
    command = [str(root / "bin" / program), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=inherited, check=False
    )


READ = """\
import json, kappa_lib
from pathlib import Path
from kappa_lib import paths
from kappa_lib.spectra import kappa_table
table = kappa_table.read(Path("out")).set_index("tensor")
print(json.dumps([kappa_lib.__file__, str(paths.results("laptop")), table["kappa"].to_dict()]))
"""


def test_an_installed_package_scans_and_selects_from_any_folder(light, elsewhere):
    folder, expected = elsewhere
    scanned = call(light, folder, "scan", "mine.safetensors", "-o", "out", "--device", "cpu")
    assert scanned.returncode == 0, scanned.stderr
    assert "6 matrices in out/kappa.parquet" in scanned.stdout
    *where, found = json.loads(call(light, folder, "-c", READ, program="python").stdout)
    assert Path(where[0]).is_relative_to(light)
    assert where[1] == str(folder / "results" / "laptop")
    assert found == pytest.approx(expected, rel=1e-4)

    chosen = call(light, folder, "select", "out", "--count", "2", "-o", "arms")
    assert chosen.returncode == 0, chosen.stderr
    lowest = sorted(expected, key=expected.get)[:2]
    assert all(name in (folder / "arms" / "selected.json").read_text() for name in lowest)


def test_a_command_that_needs_an_extra_names_it(light, elsewhere):
    folder, _ = elsewhere
    refused = call(light, folder, "train", "--profile", "smoke")
    assert refused.returncode == 2
    assert "needs the package jiwer, which the extra 'speech' brings" in refused.stderr
    assert "pip install '.[speech]'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_light_environment_is_light(light, elsewhere):
    folder, _ = elsewhere
    shown = call(light, folder, "--version").stdout
    assert shown.strip() == f"kappa_lib {__version__}"
    for module in ("transformers", "datasets", "matplotlib", "jupyterlab", "pytest"):
        absent = call(light, folder, "-c", f"import {module}", program="python")
        assert f"No module named '{module}'" in absent.stderr
