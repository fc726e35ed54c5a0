"""Peak memory against an allocation of known size."""

import subprocess
import sys

import pytest

from benchmarks.memory import PeakMemory
from kappa_lib import paths

MEGABYTES = 80


# In a process of its own: of one that holds a gigabyte the system may take some meanwhile.
ALLOCATES = """
import sys, time
import numpy as np
from benchmarks.memory import PeakMemory
with PeakMemory() as memory:
    block = np.ones(int(sys.argv[1]) * 125_000)
    block += 1
    time.sleep(0.2)  # memory is sampled, and a busy machine may skip some samples
    del block
print(memory.rise)
"""


def test_rise_is_what_was_allocated():
    command = [sys.executable, "-c", ALLOCATES, str(MEGABYTES)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1e6 == pytest.approx(MEGABYTES, rel=0.3)


def test_another_process_is_watched_until_it_ends():
    grow = f"x = b'1' * ({MEGABYTES} * 10**6); import time; time.sleep(2)"
    child = subprocess.Popen([sys.executable, "-c", grow])
    with PeakMemory(child.pid) as memory:
        assert child.wait() == 0
    assert MEGABYTES < memory.highest / 1e6 < MEGABYTES + 60
