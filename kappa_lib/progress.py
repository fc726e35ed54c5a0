"""How long-running library code says where it is, without disturbing a notebook's outputs.

The bars are tqdm's; where they are drawn depends on who is watching:

- A terminal or a log: on stderr.
- A kernel that the notebook runner started: on the runner's stderr, whose number among the
  kernel's open files is ``KAPPA_PROGRESS``; nothing of it lands in the executed notebook.
- JupyterLab: below the cell, until the stage ends.
- Any other kernel (nbval, nbconvert): nowhere, because outputs are compared or committed.
"""

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

CHANNEL = "KAPPA_PROGRESS"


def _stream() -> TextIO | None:
    """Where progress goes now, None where nobody watches."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return sys.stderr
    if number := os.environ.get(CHANNEL):
        return open(int(number), "w", encoding="utf-8", closefd=False)
    # Jupyter's server names the session of a notebook that a person has open; nbval and nbconvert,
    # which start kernels themselves, do not.
    return sys.stdout if "JPY_SESSION_NAME" in os.environ else None


def say(text: str) -> None:
    """Report a sentence, for instance that a download has begun, to whom progress goes."""
    if stream := _stream():
        tqdm.write(text, file=stream)
        stream.flush()


class Progress(tqdm):
    """Progress of one stage, to be used as a context manager, or to be looped over.

    Args:
        what: the stage, as the reader knows it ("scan", "train selected, seed 0").
        total: number of steps, None where :meth:`reach` or ``items`` tells it.
        start: steps that an earlier, interrupted call has already done.
        items: what a loop gets, each of which is a step.
    """

    def __init__(
        self, what: str, total: int | None = None, start: int = 0, items: Iterable | None = None
    ) -> None:
        stream = _stream()
        log = stream not in (None, sys.stdout) and not stream.isatty()
        super().__init__(
            items,
            desc=what,
            total=total,
            initial=start,
            file=stream,
            disable=stream is None,
            leave=stream is not sys.stdout,
            mininterval=10.0 if log else 0.5,  # seconds between two drawings
            # A stage of which nothing is told is not drawn.
            delay=0 if total or items is not None else 1e-3,
        )

    def update(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more steps as done; ``note`` says something about the last one."""
        if note:
            self.set_postfix_str(note, refresh=False)
        super().update(n)

    def reach(self, done: int, total: int, note: str = "") -> None:
        """Have ``done`` of ``total`` steps done: the callback that library functions take, so as
        not to depend on who listens."""
        if self.total is None:  # those before the first report are an earlier call's
            self.total, self.initial, self.n, self.delay = total, done, done, 0
        self.update(done - self.n, note)
