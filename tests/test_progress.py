"""Progress goes to the channel, to a terminal, or nowhere, and its arithmetic is right."""

import functools
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from kappa_lib import progress


@pytest.fixture
def channel(tmp_path, monkeypatch):
    """What the channel holds: each line as it last was."""
    path = tmp_path / "progress"
    monkeypatch.setenv(progress.CHANNEL, str(path))

    def lines():
        *whole, _ = path.read_bytes().decode().split("\n")
        return [text.rpartition("\r")[2] for text in whole]

    return lines


def test_a_tracked_loop_reaches_the_channel_to_its_end(channel):
    assert list(progress.track(range(500), "count")) == list(range(500))
    (line,) = channel()
    assert line.startswith("count: 100%")
    assert "500/500" in line


def test_sentences_reach_the_channel(channel):
    progress.say("fetching")
    assert channel() == ["fetching"]


def test_a_callback_becomes_a_stage_each(channel):
    stages = progress.Stages()
    scan = functools.partial(stages, "scan")
    scan(0, 2, "q_proj")
    scan(2, 2, "")
    stages("train, seed 0", 1, 3, "loss 2.5")
    stages("evaluate", 0, 2)
    stages.close()
    ends = [("scan", "2/2"), ("train, seed 0", "1/3"), ("evaluate", "0/2")]
    for line, (what, count) in zip(channel(), ends, strict=True):
        assert line.startswith(f"{what}: ")
        assert f" {count} " in line


def test_a_callback_that_begins_in_the_middle_was_resumed(channel):
    stages = progress.Stages()
    stages("train", 41, 80, "loss 2.5")
    stages("train", 80, 80, "loss 2.4")
    (line,) = channel()
    assert "80/80" in line
    assert "loss 2.4" in line


def test_one_of_several_processes_reports(channel, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    progress.say("silent")
    assert list(progress.track("abc", "spell")) == ["a", "b", "c"]
    monkeypatch.setenv("RANK", "0")
    progress.say("heard")
    assert channel() == ["heard"]


def test_a_terminal_gets_lines_on_stderr_only():
    code = "from kappa_lib.progress import track; [None for _ in track('abc', 'spell')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "spell: 100%" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("session", [None, "someone's notebook"])
def test_a_kernel_keeps_nothing_of_it(session, monkeypatch):
    monkeypatch.delenv(progress.CHANNEL, raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    source = (
        "from kappa_lib.progress import say, track\nsay('begin')\nprint(sum(track([1, 2], 'add')))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    shown = notebook.cells[0].outputs
    assert {output.name for output in shown} == {"stdout"}
    text = "".join(output.text for output in shown)
    left = re.sub(r"[^\n]*\r", "", text)  # as a terminal has it in the end
    assert left == ("begin\n3\n" if session else "3\n")


@pytest.mark.slow
def test_tqdm_s_wish_for_widgets_is_in_no_notebook():
    source = "import kappa_lib, warnings\nimport huggingface_hub.utils\nimport tqdm.auto"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert notebook.cells[0].outputs == []
