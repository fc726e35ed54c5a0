"""Progress goes to the console, to a terminal, or nowhere, and its arithmetic is right."""

import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from kappa_lib import progress


@pytest.fixture
def told(capsys):
    """What stderr was told: each line as it last was."""

    def lines():
        *whole, _ = capsys.readouterr().err.split("\n")
        return [text.rpartition("\r")[2] for text in whole]

    return lines


def test_a_tracked_loop_is_told_to_its_end(told):
    assert list(progress.Progress("count", items=range(500))) == list(range(500))
    (line,) = told()
    assert line.startswith("count: 100%")
    assert "500/500" in line


def test_sentences_are_told(told):
    progress.say("fetching")
    assert told() == ["fetching"]


def test_a_callback_that_begins_in_the_middle_was_resumed(told):
    with progress.Progress("train") as bar:
        bar.reach(41, 80)
        assert (bar.n, bar.initial) == (41, 41)
        bar.reach(80, 80, "loss 2.4")
    (line,) = told()
    assert "80/80" in line
    assert "loss 2.4" in line


def test_a_stage_of_which_nothing_is_told_is_not_drawn(told):
    with progress.Progress("scan"):
        pass
    assert told() == []


def test_a_terminal_gets_lines_on_stderr_only():
    code = "from kappa_lib.progress import Progress; [None for _ in Progress('spell', items='abc')]"
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
        "from kappa_lib.progress import Progress, say\nsay('begin')\n"
        "print(sum(Progress('add', items=[1, 2])))"
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
