"""How long-running library code says where it is, without disturbing a notebook's outputs.

Where a report goes depends on who is watching:

- ``KAPPA_PROGRESS`` names a file: JSON lines are appended to it. The notebook runner sets it and
  shows them on its console, so that nothing of it lands in the executed notebook.
- JupyterLab: one line that updates in place and disappears at the end.
- Any other kernel (nbval, nbconvert): nothing, because their outputs are compared or committed.
- A terminal: a line on stderr, at most one every ``EVERY`` seconds.

Of several processes on one run, the leading one alone reports.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from kappa_lib import distributed
from kappa_lib.text import clock

CHANNEL = "KAPPA_PROGRESS"
# Jupyter's server names the session of a notebook that a person has open; nbval and nbconvert,
# which start kernels themselves, do not.
_WATCHED = "JPY_SESSION_NAME"
EVERY = 5.0  # seconds between two lines on a terminal
EVERY_LIVE = 0.5  # seconds between two reports to something that overwrites the last one

T = TypeVar("T")


def line(report: dict[str, Any]) -> str:
    """A report as one line: stage, steps done, time so far, time left, note."""
    done, total, elapsed = report["done"], report["total"], report["elapsed"]
    parts = [f"{done}/{total}" if total is not None else f"{done}"]
    # Steps done before a resume cost nothing now, so they say nothing about the time left.
    fresh = done - report["start"]
    if report["closed"]:
        parts.append(f"took {clock(elapsed)}")
    elif total is not None and fresh > 0:
        parts.append(f"{clock(elapsed / fresh * (total - done))} left")
    if report["note"]:
        parts.append(report["note"])
    return f"{report['what']}: " + ", ".join(parts)


def say(text: str) -> None:
    """Report a sentence, for instance that a download has begun, to whom progress goes."""
    match _watcher():
        case "channel":
            append(os.environ[CHANNEL], {"say": text})
        case "terminal":
            print(text, file=sys.stderr, flush=True)
        case "lab":
            print(text, flush=True)


def _watcher() -> Literal["channel", "terminal", "lab", "nobody"]:
    if not distributed.is_main_process():
        return "nobody"
    if os.environ.get(CHANNEL):
        return "channel"
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return "terminal"
    return "lab" if _WATCHED in os.environ else "nobody"


def append(path: str, report: dict[str, Any]) -> None:
    """Add one entry to a channel file."""
    # One write of one line: concurrent writers do not tear each other's lines.
    with Path(path).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(report, ensure_ascii=False) + "\n")


class Progress:
    """Progress of one stage, to be used as a context manager.

    Args:
        what: the stage, as the reader knows it ("scan", "train selected, seed 0").
        total: number of steps, None where it is not known.
        start: steps that an earlier, interrupted call has already done.
    """

    def __init__(self, what: str, total: int | None = None, start: int = 0) -> None:
        self.what, self.total, self.start = what, total, start
        self.done, self.note = start, ""
        self._began = time.monotonic()
        self._watcher = _watcher()
        self._display: Any = None  # JupyterLab's handle on the line that changes
        self._report(closed=False)

    def update(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more steps as done; ``note`` says something about the last one."""
        self.done += n
        self.note = note or self.note
        every = EVERY if self._watcher == "terminal" else EVERY_LIVE
        if time.monotonic() - self._last >= every:
            self._report(closed=False)

    def close(self) -> None:
        """Report the end; the time it took is what the run's report shows."""
        self._report(closed=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()

    def _report(self, closed: bool) -> None:
        self._last = time.monotonic()
        report = {name: getattr(self, name) for name in ("what", "done", "total", "start", "note")}
        report |= {"elapsed": round(self._last - self._began, 3), "closed": closed}
        match self._watcher:
            case "channel":
                append(os.environ[CHANNEL], report)
            case "terminal" if closed or self.done > self.start:
                print(line(report), file=sys.stderr, flush=True)
            case "lab":
                self._show("" if closed else line(report))

    def _show(self, text: str) -> None:
        from IPython.display import display

        if self._display is None:
            self._display = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._display.update({"text/plain": text}, raw=True)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and report each as a step when the next one is asked for."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total) as progress:
        for item in items:
            yield item
            progress.update()


class Stages:
    """A callback told (what, done, total) that opens and closes a :class:`Progress` a stage.

    Library functions take such a callback so as not to depend on who listens.
    """

    def __init__(self) -> None:
        self._now: Progress | None = None

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` steps of the stage ``what``."""
        if self._now is not None and self._now.what != what:
            self.close()
        if self._now is None:
            self._now = Progress(what, total, start=done)
        else:
            self._now.update(done - self._now.done, note)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the stage that is open."""
        if self._now is not None:
            self._now.close()
            self._now = None
