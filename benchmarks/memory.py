"""Peak memory of a process."""

import gc
import threading
from typing import Self

import psutil


class PeakMemory:
    """Highest resident memory of a process while the block runs, sampled every few milliseconds.

    ``highest`` is in bytes; the process is this one by default.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._process = psutil.Process(pid)
        self._start = self.highest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        gc.collect()
        self._start = self.highest = self._process.memory_info().rss
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            try:
                self.highest = max(self.highest, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def rise(self) -> int:
        """Bytes above the level at the start."""
        return self.highest - self._start
