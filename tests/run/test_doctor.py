"""The doctor finds the faults it is there for, and nothing on a sound machine."""

import json
import platform
import sys
from collections import namedtuple

import psutil
import pytest
import torch

from kappa_lib.run import cli, doctor
from kappa_lib.weights import assets

Memory = namedtuple("Memory", "available")
Disk = namedtuple("Disk", "free")


def only(checks):
    (check,) = checks
    return check


def test_this_environment_has_no_fault():
    found = [check for part in (doctor.python, doctor.packages, doctor.kernel) for check in part()]
    assert [check.level for check in found] == ["ok"] * 3
    assert platform.python_version() in found[0].what


def test_an_old_python_is_a_fault():
    check = only(doctor.python("3.10.4"))
    assert check.level == "fail"
    assert "3.10.4" in check.what
    assert ">=3.11" in check.what


def test_packages_that_differ_from_the_lock_are_faults(tmp_path):
    lock = tmp_path / "some.lock"
    lock.write_text(f"torch==0.1\nnumpy=={sys.modules['numpy'].__version__}\n")
    check = only(doctor.packages(lock))
    assert (check.level, check.remedy) == ("fail", "pip install -r some.lock")
    assert check.what.startswith(f"package torch is {torch.__version__}")
    lock.unlink()
    assert only(doctor.packages(lock)).level == "warn"


@pytest.mark.parametrize(("program", "level"), [("/usr/bin/other", "fail"), ("python", "ok")])
def test_a_kernel_of_another_environment_is_a_fault(program, level, tmp_path, monkeypatch):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": [program, "-f", "{connection_file}"], "display_name": "Python 3"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = only(doctor.kernel())
    assert check.level == level
    if level == "fail":
        assert program in check.what
        assert str(folder) in check.remedy


@pytest.mark.parametrize(("amount", "level"), [(9e9, "ok"), (5e9, "warn"), (1e9, "fail")])
def test_memory_is_graded(amount, level, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(amount))
    check = only(doctor.memory())
    assert check.level == level
    assert f"{amount / 1e9:.1f} GB" in check.what
    assert bool(check.remedy) == (level != "ok")


@pytest.mark.parametrize(("amount", "level"), [(6e9, "ok"), (3e9, "warn"), (1e9, "fail")])
def test_disk_is_graded_where_the_folders_would_be(amount, level, tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path / "results"))
    asked = []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda at: asked.append(at) or Disk(amount))
    cache, results = doctor.disk()
    assert asked == [tmp_path, tmp_path]
    assert (cache.level, results.level) == (level, level)
    if level != "ok":
        assert "KAPPA_HOME" in cache.remedy
        assert "KAPPA_RESULTS" in results.remedy


@pytest.mark.parametrize(
    ("cuda", "mps", "driver", "says"),
    [
        (False, False, None, "no GPU"),
        (False, True, None, "MPS present and not used"),
        (False, False, "/usr/bin/nvidia-smi", "sees no GPU"),
    ],
)
def test_device(cuda, mps, driver, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: driver)
    cpu, gpu = doctor.device()
    assert cpu.what.startswith("CPU: ")
    assert says in gpu.what
    assert gpu.level == ("warn" if driver else "ok")


def test_an_empty_cache_is_a_warning_and_a_wrong_file_a_fault(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path))
    assert {check.level for check in doctor.data()} <= {"warn", "fail"}
    folder, gguf = assets.SMOLLM2.folder, assets.SMOLLM2.pins[0].name
    folder.mkdir(parents=True)
    (folder / gguf).write_bytes(b"not the model")
    faults = [check for check in doctor.data() if check.level == "fail" and gguf in str(check)]
    assert len(faults) == 1
    assert faults[0].remedy
    assert cli.main(["doctor"]) == 1
    assert "1 to mend" in capsys.readouterr().out.splitlines()[-1]
