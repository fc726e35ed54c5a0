"""How long-running library code says where it is, without disturbing a notebook's outputs.

The bars are tqdm's; where they are drawn depends on who is watching:

- ``KAPPA_PROGRESS`` names a file: there. The notebook runner sets it and copies it to its console,
  so that nothing of it lands in the executed notebook.
- JupyterLab: below the cell, until the stage ends.
- Any other kernel (nbval, nbconvert): nowhere, because outputs are compared or committed.
- A terminal or a log: on stderr.

Of several processes on one run, the leading one alone reports.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TextIO, TypeVar

from tqdm import tqdm

from kappa_lib import distributed

CHANNEL = "KAPPA_PROGRESS"
# Jupyter's server names the session of a notebook that a person has open; nbval and nbconvert,
# which start kernels themselves, do not.
_WATCHED = "JPY_SESSION_NAME"
EVERY, EVERY_IN_A_LOG = 0.5, 10.0  # seconds between two drawings of a bar

T = TypeVar("T")


def _stream() -> TextIO | None:
    """Where progress goes now, None where nobody watches."""
    if not distributed.is_main_process():
        return None
    if path := os.environ.get(CHANNEL):
        return Path(path).open("a", encoding="utf-8")
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return sys.stderr
    return sys.stdout if _WATCHED in os.environ else None


def say(text: str) -> None:
    """Report a sentence, for instance that a download has begun, to whom progress goes."""
    if stream := _stream():
        tqdm.write(text, file=stream)
        stream.flush()


class Progress(tqdm):
    """Progress of one stage, to be used as a context manager.

    Args:
        what: the stage, as the reader knows it ("scan", "train selected, seed 0").
        total: number of steps, None where it is not known.
        start: steps that an earlier, interrupted call has already done.
    """

    def __init__(self, what: str, total: int | None = None, start: int = 0) -> None:
        stream = _stream()
        log = stream is sys.stderr and not stream.isatty()
        super().__init__(
            desc=what,
            total=total,
            initial=start,
            file=stream,
            disable=stream is None,
            leave=stream is not sys.stdout,
            mininterval=EVERY_IN_A_LOG if log else EVERY,
        )

    def update(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more steps as done; ``note`` says something about the last one."""
        if note:
            self.set_postfix_str(note, refresh=False)
        super().update(n)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and report each as a step when the next one is asked for."""
    with Progress(what, len(items) if isinstance(items, Sized) else total) as progress:
        for item in items:
            yield item
            progress.update()


class Stages:
    """A callback told (what, done, total) that opens and closes a :class:`Progress` a stage.

    Library functions take such a callback so as not to depend on who listens.
    """

    def __init__(self) -> None:
        self._now: Progress | None = None
        self._what, self._done = "", 0

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report ``done`` of ``total`` steps of the stage ``what``."""
        if what != self._what:
            self.close()
        if self._now is None:
            self._now = Progress(what, total, start=done)
        else:
            self._now.update(done - self._done, note)
        self._what, self._done = what, done
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the stage that is open."""
        if self._now is not None:
            self._now.close()
            self._now = None
