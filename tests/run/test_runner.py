"""The runner on small notebooks: parameters, skipping, resuming, failures, untouched sources."""

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
from kappa_lib.errors import InputError
from kappa_lib.run.notebook import NotebookError, Record, parameters
from kappa_lib.run.runner import Console, Run, main

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
    """Execute each in turn as the runner does; returns the console's text."""
    out = io.StringIO()
    force = values.pop("force", False)
    pass_ = Run(profiles.load("smoke", **values), list(notebooks), Console(out), force)
    try:
        for index, source in enumerate(notebooks, start=1):
            pass_.notebook(source, f"[{index}/{len(notebooks)}]")
    finally:
        run.text = out.getvalue()
    return run.text


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


def test_a_parameter_that_is_no_profile_key_is_refused(folder):
    source = write(folder / "01_a.ipynb", settings="profile = 'smoke'\nsteeps = 3")
    with pytest.raises(InputError, match=r"01_a\.ipynb: its parameters cell declares steeps"):
        parameters(source, profiles.load("smoke"))


def test_unchanged_is_skipped_and_each_kind_of_change_is_not(folder):
    first = write(folder / "01_a.ipynb", *WRITES)
    second = write(folder / "02_b.ipynb", "print('b')")
    assert "unchanged" not in run(first, second)
    assert run(first, second).count("unchanged, skipped") == 2
    # Another parameter writes another file, so the notebook after it is stale as well.
    assert run(first, second, seed=1).count("done in") == 2
    # An edit that changes no file leaves the later notebook alone.
    write(first, "print('edited')")
    text = run(first, second, seed=1)
    assert "01_a: done in" in text
    assert "02_b: unchanged" in text
    assert "01_a: done in" in run(first, seed=1, force=True)


def test_a_failure_names_cell_error_and_partial_copy_and_is_resumed(folder):
    source = write(folder / "01_a.ipynb", *WRITES, "{}['missing tensor']", "print('never')")
    with pytest.raises(NotebookError) as caught:
        run(source)
    partial = paths.results("smoke") / "notebooks" / "01_a.unfinished.ipynb"
    text = str(caught.value)
    assert "01_a.ipynb failed in cell [6]" in text
    assert "KeyError: 'missing tensor'" in text
    assert "\x1b" not in text
    assert str(partial) in text
    assert partial.is_file()
    assert not partial.with_name("01_a.ipynb").exists()

    first = files.read_json(paths.results("smoke") / "timings.json")["notebooks"]["01_a"]
    assert first["finished"] is False

    write(source, *WRITES)
    assert "[1/1] 01_a: resuming" in run(source)
    both = files.read_json(paths.results("smoke") / "timings.json")["notebooks"]["01_a"]
    assert both["seconds"] > first["seconds"] > 0
    assert both["resumed"] is both["finished"] is True
    assert "unchanged" in run(source)
    assert not partial.exists()


def test_a_dead_kernel_is_explained(folder):
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    source = write(folder / "01_a.ipynb", "print('alive')", kill)
    with pytest.raises(NotebookError, match="the kernel died in cell \\[4\\]") as caught:
        run(source)
    assert "memory" in caught.value.remedy


def test_progress_reaches_the_console_and_the_timings_but_not_the_notebook(folder):
    stage = "from kappa_lib.progress import track\nprint(sum(track([1, 2, 3], 'adding')))"
    text = run(write(folder / "01_a.ipynb", stage))
    assert "adding: 3/3, took 0 s" in text
    timings = files.read_json(paths.results("smoke") / "timings.json")
    entry = timings["notebooks"]["01_a"]
    assert list(entry["stages"]) == ["adding"]
    assert entry["seconds"] > entry["stages"]["adding"]
    assert entry["resumed"] is False
    assert entry["finished"] is True
    executed = nbformat.read(paths.results("smoke") / "notebooks" / "01_a.ipynb", as_version=4)
    assert [output.name for output in executed.cells[-1].outputs] == ["stdout"]


def test_an_execution_that_was_spared_nothing_keeps_its_time(folder):
    entries = []
    for text in ("slow", "fast", "again"):
        run(write(folder / "01_a.ipynb", *WRITES, f"print({text!r})"))
        timings = files.read_json(paths.results("smoke") / "timings.json")
        entries.append(timings["notebooks"]["01_a"])
    whole = {key: entries[0][key] for key in ("seconds", "stages")}
    assert "first" not in entries[0]
    assert entries[1]["first"] == entries[2]["first"] == whole


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


def test_main_reports_a_wrong_profile_and_key_without_a_traceback(folder, capsys):
    assert main(["--profile", "nope"]) == 1
    assert "there is no profile 'nope'" in capsys.readouterr().out
    assert main(["--profile", "smoke", "--set", "stepz=1"]) == 1
    assert "unknown profile key 'stepz'" in capsys.readouterr().out
    assert main(["--profile", "smoke", "--only", "99"]) == 1
    assert "no notebook starts with 99" in capsys.readouterr().out


class TestRecord:
    """The skip rule without kernels."""

    @pytest.fixture
    def record(self, tmp_path):
        (tmp_path / "notebooks").mkdir()
        return lambda: Record(tmp_path, ["a", "b", "c"])

    @staticmethod
    def execute(record, name, **written):
        record.start(name)
        time.sleep(0.02)  # longer than the file system's clock ticks
        for file, text in written.items():
            (record.folder / file.replace("_", ".")).write_text(text)
        unfinished = record.folder / "notebooks" / f"{name}.unfinished.ipynb"
        nbformat.write(new_notebook(), unfinished)
        record.finish(name, "key", unfinished)
        time.sleep(0.02)

    def test_new_data_makes_later_notebooks_stale_and_new_drawings_do_not(self, record):
        book = record()
        for name in "abc":
            self.execute(book, name)
        self.execute(book, "b", figure_svg="drawing")
        assert [book.current(name, "key") for name in "abc"] == [True, True, True]
        self.execute(book, "b", table_csv="data")
        assert [record().current(name, "key") for name in "abc"] == [True, True, False]

    def test_the_same_data_again_makes_nothing_stale(self, record):
        book = record()
        self.execute(book, "a", table_csv="data", kept_csv="too")
        self.execute(book, "b")
        self.execute(book, "a", table_csv="data")  # the other file was made before and stays
        assert [record().current(name, "key") for name in "ab"] == [True, True]
        (book.folder / "kept.csv").unlink()
        assert [record().current(name, "key") for name in "ab"] == [False, True]

    def test_a_file_answers_to_its_last_writer(self, record):
        book = record()
        self.execute(book, "a", shared_json="1")
        self.execute(book, "b", shared_json="22")
        assert book.current("a", "key")
        (book.folder / "shared.json").write_text("333")
        assert [record().current(name, "key") for name in "ab"] == [True, False]

    def test_what_the_report_writes_counts_against_no_notebook(self, record):
        book = record()
        self.execute(book, "a", table_csv="1")
        (book.folder / "REPORT.md").write_text("report")
        (book.folder / "timings.json").write_text("{}")
        assert record().current("a", "key")

    def test_files_of_an_interrupted_attempt_belong_to_the_notebook(self, record):
        book = record()
        book.start("a")
        time.sleep(0.02)
        (book.folder / "half.json").write_text("1")
        again = record()
        assert again.interrupted("a")
        self.execute(again, "a")
        assert not record().interrupted("a")
        (book.folder / "half.json").unlink()
        assert not record().current("a", "key")

    def test_an_attempt_that_was_broken_off_is_not_current(self, record):
        book = record()
        self.execute(book, "a")
        book.start("a")
        assert not record().current("a", "key")

    def test_a_run_without_a_corpus_asks_for_it_again(self, record):
        book = record()
        without = json.dumps({"missing": {"en_human": "no mirror answered"}})
        self.execute(book, "a")
        self.execute(book, "b", split_json=without)
        self.execute(book, "c")
        assert [record().current(name, "key") for name in "abc"] == [True, False, True]
        self.execute(book, "b", split_json=without)  # again in vain: nothing new for the next
        assert [record().current(name, "key") for name in "abc"] == [True, False, True]
        self.execute(book, "b", split_json=json.dumps({"missing": {}}))
        assert [record().current(name, "key") for name in "abc"] == [True, True, False]
        self.execute(book, "c")
        assert [record().current(name, "key") for name in "abc"] == [True, True, True]

    def test_another_key_is_not_current(self, record):
        self.execute(record(), "a")
        assert record().current("a", "key")
        assert not record().current("a", "other")


def test_a_log_gets_few_lines_and_a_terminal_one_that_changes(tmp_path):
    entry = {"what": "scan", "total": 50, "start": 0, "elapsed": 1.0, "note": "", "closed": False}
    entries = [entry | {"done": k} for k in range(50)] + [entry | {"done": 50, "closed": True}]
    log, screen = io.StringIO(), io.StringIO()
    screen.isatty = lambda: True
    for out in (log, screen):
        console = Console(out)
        with console.following(tmp_path / "channel"), open(tmp_path / "channel", "a") as stream:
            stream.writelines(json.dumps(entry) + "\n" for entry in entries)
        assert console.stages == {"scan": 1.0}
    assert log.getvalue() == "      scan: 0/50\n      scan: 50/50, took 1 s\n"
    assert screen.getvalue().count("\r") == 51
    assert screen.getvalue().count("\n") == 1


def test_a_profile_of_text_is_sent_to_the_command_that_trains_it(capsys):
    assert main(["--profile", "text"]) == 1
    assert "kappa train --profile text" in capsys.readouterr().out


def test_a_profile_without_the_two_arms_is_refused_before_anything_runs(folder, capsys):
    assert main(["--profile", "smoke", "--set", "arms=[selected, random]"]) == 1
    said = capsys.readouterr().out
    assert "profile smoke has no arm inverse" in said
    assert "kappa train --profile smoke" in said
    assert not (paths.results("smoke") / "notebooks").exists()
