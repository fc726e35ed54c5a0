"""The runner on small notebooks: parameters, skipping, resuming, failures, untouched sources."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kappa_lib import files, paths, profiles
from kappa_lib.errors import KappaError
from kappa_lib.run import cli, runner

pytestmark = pytest.mark.slow
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
WRITES = [
    "from kappa_lib import files, profiles",
    "profile = profiles.load(globals())",
    "files.write_json(profile.folder / 'data' / f'{seed}.json', profile.steps)",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path / "results"))
    return tmp_path


def write(path, *cells, settings="profile = 'smoke'\nseed = 0"):
    """A notebook with a parameters cell and the given code cells under a heading."""
    first = new_code_cell(settings, metadata={"tags": ["parameters"]})
    content = [first, new_markdown_cell("# Work"), *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=content, metadata={"kernelspec": KERNEL}), path)
    return path


def run(*notebooks, **values):
    """Execute each in turn as the runner does; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runner.execute(list(notebooks), profiles.load("smoke", **values), "smoke")
    return out.getvalue()


def test_declared_and_replaced_parameters_are_injected_and_others_are_not(folder):
    shows = "print(seed, steps, 'batch' in globals(), profile.batch)"
    source = write(folder / "01_a.ipynb", *WRITES, shows)
    before = source.read_bytes()
    run(source, seed=7, steps=99)
    executed = nbformat.read(paths.results("smoke") / "notebooks" / "01_a.ipynb", as_version=4)
    batch = profiles.load("smoke").batch
    assert executed.cells[-1].outputs[0].text == f"7 99 False {batch}\n"
    # The cell does not declare steps, and the library has the run's value all the same.
    assert files.read_json(paths.results("smoke") / "data" / "7.json") == 99
    assert source.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["01_a.ipynb", "results"]


def test_unchanged_is_skipped_and_each_kind_of_change_is_not(folder):
    first = write(folder / "01_a.ipynb", *WRITES)
    second = write(folder / "02_b.ipynb", "print('b')")
    assert "unchanged" not in run(first, second)
    assert run(first, second).count("unchanged, skipped") == 2
    assert run(first, second, seed=1).count("done in") == 2
    # What a notebook leaves may depend on those before it, and on none that follows.
    write(second, "print('edited')")
    text = run(first, second, seed=1)
    assert "01_a: unchanged" in text
    assert "02_b: done in" in text
    write(first, "print('edited')")
    assert run(first, second, seed=1).count("done in") == 2


def test_only_a_part_of_the_notebooks_depends_on_the_others_all_the_same(folder):
    first = write(folder / "01_a.ipynb", *WRITES)
    second = write(folder / "02_b.ipynb", "print('b')")
    assert "[1/1] 02_b: done in" in run(second)
    assert "01_a: done in" in (text := run(first, second))
    assert "02_b: unchanged" in text
    write(first, "print('edited')")
    assert "02_b: done in" in run(second)


def test_what_decides_an_execution_has_a_part_in_the_key(folder, monkeypatch):
    source = write(folder / "01_a.ipynb", *WRITES)
    profile = profiles.load("smoke")
    before = runner.keys([source], profile)
    assert runner.keys([source], profile) == before
    assert runner.keys([source], profiles.load("smoke", lr=0.1)) != before
    mine = folder / "mine"
    mine.mkdir()
    (mine / "model.safetensors").write_bytes(b"weights")
    speech = {"mine": {"folder": str(mine), "language": "de", "text": "text"}}
    for own in ({"model": str(mine)}, {"encoder": str(mine)}, {"corpora": speech}):
        local = profiles.load("smoke", **own)
        first = runner.keys([source], local)
        (mine / "model.safetensors").write_text(f"other weights {own}")
        assert runner.keys([source], local) != first
    for name, suffix in (("PACKAGE", "code.py"), ("REFERENCE", "metrics.csv"), ("LOCK", "")):
        place = folder / "elsewhere" / name
        (place if suffix else place.parent).mkdir(parents=True, exist_ok=True)
        (place / suffix if suffix else place).write_text("new")
        with monkeypatch.context() as patch:
            patch.setattr(paths, name, place)
            if name != "PACKAGE":
                patch.setattr(paths, "PACKAGE", folder / "none")
            if name != "REFERENCE":
                patch.setattr(paths, "REFERENCE", folder / "none")
            one = runner.keys([source], profile)
            (place / suffix if suffix else place).write_text("changed")
            assert runner.keys([source], profile) != one, name


def test_a_run_without_a_corpus_asks_for_it_again(folder):
    split = "files.write_json(profile.folder / 'split.json', {'missing': {%s}})"
    without = write(folder / "01_a.ipynb", *WRITES, split % "'en_human': 'no mirror answered'")
    run(without)
    assert "01_a: done in" in run(without)
    write(without, *WRITES, split % "")
    run(without)
    assert "01_a: unchanged" in run(without)


def test_a_kernel_of_that_name_in_the_user_s_folders_is_not_taken(folder, monkeypatch):
    mine = folder / "share" / "kernels" / "python3"
    mine.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "Python 3", "language": "python"}
    (mine / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "share"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    run(write(folder / "01_a.ipynb", "import sys; print(sys.executable)"))
    executed = nbformat.read(paths.results("smoke") / "notebooks" / "01_a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == f"{sys.executable}\n"


def test_a_failure_names_cell_error_and_partial_copy_and_is_resumed(folder):
    source = write(folder / "01_a.ipynb", *WRITES, "{}['missing tensor']", "print('never')")
    sound = write(folder / "02_b.ipynb", "assert seed == 0")
    run(sound)
    with pytest.raises(KappaError):
        run(sound, seed=1)
    # Back to what was executed before: the broken attempt may have written over its results.
    assert "02_b: resuming" in run(sound)
    assert "02_b: unchanged" in run(sound)
    with pytest.raises(KappaError) as caught:
        run(source)
    partial = paths.results("smoke") / "notebooks" / "01_a.unfinished.ipynb"
    text = str(caught.value)
    assert "01_a.ipynb failed in cell [6]" in text
    assert "KeyError: 'missing tensor'" in text
    assert "\x1b" not in text
    assert str(partial) in text
    assert partial.is_file()
    assert not partial.with_name("01_a.ipynb").exists()

    write(source, *WRITES, "import time; time.sleep(1.2)")
    began = time.monotonic()
    assert "[1/1] 01_a: resuming" in run(source)
    took = files.read_json(paths.results("smoke") / "timings.json")["notebooks"]["01_a"]
    assert took["resumed"] is True
    assert 1.2 <= took["stages"]["Work"] <= took["seconds"] <= time.monotonic() - began
    assert "unchanged" in run(source)
    assert not partial.exists()


def test_a_dead_kernel_is_explained(folder):
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    source = write(folder / "01_a.ipynb", "print('alive')", kill)
    with pytest.raises(KappaError, match="the kernel died in cell \\[4\\]") as caught:
        run(source)
    assert "memory" in caught.value.remedy


def test_progress_reaches_the_console_and_not_the_notebook(folder, capfd):
    stage = "from kappa_lib.progress import Progress, say\nsay('begin')\n"
    run(write(folder / "01_a.ipynb", stage + "print(sum(Progress('adding', items=[1, 2, 3])))"))
    lines = capfd.readouterr().err.splitlines()
    assert "begin" in lines
    assert [line for line in lines if line.startswith("adding: 100%") and "3/3" in line]
    executed = nbformat.read(paths.results("smoke") / "notebooks" / "01_a.ipynb", as_version=4)
    assert [output.name for output in executed.cells[-1].outputs] == ["stdout"]


def test_killing_the_runner_ends_the_kernel_and_the_next_call_resumes(folder):
    waits = (
        "import os, time\nprint(os.getpid(), flush=True)\nopen('pid', 'w').write(str(os.getpid()))"
    )
    source = write(
        folder / "01_a.ipynb", *WRITES, waits, "time.sleep(0 if 'go' in os.listdir() else 600)"
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_runner;"
        "test_runner.run(Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(source)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    while not (folder / "pid").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the runner ended before its time"
        time.sleep(0.1)
    kernel = int((folder / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and _alive(kernel):
        time.sleep(0.1)
    assert not _alive(kernel)
    (folder / "go").touch()
    assert "01_a: resuming" in run(source)
    assert files.read_json(paths.results("smoke") / "data" / "0.json") > 0


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--profile", "nope"], "there is no profile 'nope'"),
        (["--profile", "smoke", "--set", "stepz=1"], "stepz: Extra inputs"),
        (["--profile", "smoke", "--only", "99"], "no notebook starts with 99"),
        (["--profile", "text"], "kappa train --profile text"),
        (["--profile", "smoke", "--set", "arms=[selected, all]"], "kappa train --profile smoke"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(given, said, folder, capsys):
    assert cli.main(["run", *given]) == cli.WRONG
    assert said in capsys.readouterr().err
    assert not (paths.results("smoke") / "notebooks").exists()


def test_an_installed_package_has_no_notebooks(monkeypatch, capsys):
    monkeypatch.setattr(paths, "in_clone", lambda: False)
    assert cli.main(["run", "--profile", "smoke"]) == cli.WRONG
    assert "an installed package does not bring them" in capsys.readouterr().err
