import subprocess

import torch

from kappa_lib import paths, provenance


def test_vector_instructions_are_those_that_pytorch_computes_with():
    found = provenance.describe()["instructions"]
    capability = torch.backends.cpu.get_cpu_capability()
    assert ("avx512_f" in found) == (capability == "AVX512")
    assert ("avx2" in found) == (capability in ("AVX2", "AVX512"))


def test_an_installed_copy_inside_another_repository_names_no_commit(tmp_path, monkeypatch):
    """As in an environment that lies in a project's own folder."""
    commit = ["commit", "-q", "--allow-empty", "-m", "theirs"]
    who = ["-c", "user.name=them", "-c", "user.email=them@example.org"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), *who, *commit], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "site-packages")
    assert provenance.describe()["commit"] is None
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert provenance.describe()["commit"]
