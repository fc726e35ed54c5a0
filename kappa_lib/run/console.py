"""What a person sees while a notebook is executed: its progress channel, on one console."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

from kappa_lib.progress import CHANNEL, line

EVERY = 10.0  # seconds between two lines of one stage where lines cannot be overwritten


class Console:
    """Prints reports: overwriting one line on a terminal, sparingly in a log.

    Args:
        out: where to print.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.stages: dict[str, float] = {}
        self._live = self.out.isatty()
        self._open = False
        self._shown = ("", -float("inf"))

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._open:
            self.out.write("\n")
            self._open = False
        self.out.write(text + "\n")
        self.out.flush()

    def report(self, entry: dict[str, Any]) -> None:
        """Show one entry of the channel; the time of a stage that has ended is kept."""
        if "say" in entry:
            self.say(f"      {entry['say']}")
            return
        if "cell" in entry:
            if self._live or self._due("cell"):
                self._show("cell", f"      {entry['cell']}", stays=False)
            return
        what = entry["what"]
        if entry["closed"]:
            self.stages[what] = self.stages.get(what, 0.0) + entry["elapsed"]
        elif not self._live and not self._due(what):
            return
        self._show(what, f"      {line(entry)}", stays=entry["closed"])

    def _due(self, what: str) -> bool:
        last, when = self._shown
        return what not in (last, "cell") or time.monotonic() - when >= EVERY

    def _show(self, what: str, text: str, stays: bool) -> None:
        self._shown = (what, time.monotonic())
        if not self._live:
            self.say(text)
            return
        self.out.write("\r\x1b[K" + text + ("\n" if stays else ""))
        self.out.flush()
        self._open = not stays

    @contextmanager
    def following(self, channel: Path) -> Iterator[None]:
        """Show what processes that start meanwhile append to ``channel``, until the block ends."""
        channel.write_text("", encoding="utf-8")
        os.environ[CHANNEL] = str(channel)
        ended = Event()
        thread = Thread(target=self._follow, args=(channel, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            del os.environ[CHANNEL]
            ended.set()
            thread.join()
            channel.unlink(missing_ok=True)

    def _follow(self, channel: Path, ended: Event) -> None:
        with channel.open(encoding="utf-8") as stream:
            pending = ""
            while True:
                last_look = ended.is_set()
                pending += stream.read()
                *whole, pending = pending.split("\n")
                for text in whole:
                    self.report(json.loads(text))
                if last_look:
                    return
                ended.wait(0.2)
