"""Progress goes to the channel, to a terminal, or nowhere, and its arithmetic is right."""

import functools
import json
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from kappa_lib import progress


@pytest.fixture
def channel(tmp_path, monkeypatch):
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(progress.CHANNEL, str(path))
    return lambda: [json.loads(text) for text in path.read_text().splitlines()]


def report(**values):
    usual = {"what": "scan", "done": 0, "total": 10, "start": 0, "elapsed": 0.0, "note": ""}
    return usual | {"closed": False} | values


def test_time_left_is_proportional_to_the_steps_left():
    assert progress.line(report(done=4, elapsed=20.0)) == "scan: 4/10, 30 s left"


def test_steps_done_before_a_resume_do_not_shorten_the_time_left():
    assert progress.line(report(done=6, start=5, elapsed=7.0)) == "scan: 6/10, 28 s left"


def test_without_a_total_there_is_no_time_left():
    assert progress.line(report(done=3, total=None, note="x.bin")) == "scan: 3, x.bin"


def test_end_says_how_long_it_took():
    assert progress.line(report(done=10, elapsed=61, closed=True)) == "scan: 10/10, took 1 min 01 s"


def test_reports_reach_the_channel_throttled(channel):
    assert list(progress.track(range(500), "count")) == list(range(500))
    first, *_, last = channel()
    assert (first["done"], first["total"], first["closed"]) == (0, 500, False)
    assert (last["done"], last["closed"]) == (500, True)
    assert len(channel()) < 50


def test_sentences_reach_the_channel(channel):
    progress.say("fetching")
    assert channel() == [{"say": "fetching"}]


def test_a_callback_becomes_a_stage_each(channel):
    stages = progress.Stages()
    scan = functools.partial(stages, "scan")
    scan(0, 2, "q_proj")
    scan(2, 2, "")
    stages("train, seed 0", 1, 3, "loss 2.5")
    stages("evaluate", 0, 2)
    stages.close()
    closed = [(e["what"], e["done"], e["total"]) for e in channel() if e["closed"]]
    assert closed == [("scan", 2, 2), ("train, seed 0", 1, 3), ("evaluate", 0, 2)]


def test_a_callback_that_begins_in_the_middle_was_resumed(channel):
    stages = progress.Stages()
    stages("train", 41, 80, "loss 2.5")
    stages("train", 80, 80, "loss 2.4")
    assert [entry["start"] for entry in channel()] == [41, 41]
    assert channel()[-1]["note"] == "loss 2.4"


def test_a_stage_that_fails_is_not_reported_as_ended(channel):
    with pytest.raises(ZeroDivisionError), progress.Progress("divide", 2):
        raise ZeroDivisionError
    assert not any(entry["closed"] for entry in channel())


def test_a_terminal_gets_lines_on_stderr_only():
    code = "from kappa_lib.progress import track; [None for _ in track('abc', 'spell')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "spell: 3/3, took 0 s"


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
    shown = [output for output in notebook.cells[0].outputs if output.output_type == "stream"]
    assert {output.name for output in shown} == {"stdout"}
    assert "".join(output.text for output in shown) == ("begin\n3\n" if session else "3\n")
    live = [output for output in notebook.cells[0].outputs if output.output_type != "stream"]
    assert [output.data["text/plain"] for output in live] == ([""] if session else [])
