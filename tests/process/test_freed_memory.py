"""What answers of an object store take is used again: the kernel need not give it page by page."""

from __future__ import annotations

import subprocess
import sys

import pytest

READS = """
import resource, sys, threading
from collections import deque
from robustmq.process.freed_memory import reuse_freed_memory
if sys.argv[1] == "reused" and not reuse_freed_memory():
    sys.exit("no glibc")
SIZE, KEPT, COUNT = 8 << 20, 8, 60
answers = deque(maxlen=KEPT)
def read():
    for _ in range(COUNT):
        answers.append(b"x" * SIZE)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def on_threads():
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
on_threads()
before = faults()
on_threads()
print((faults() - before) // (4 * COUNT * SIZE >> 20))
"""


def faults_a_mib(how: str) -> int:
    """Page faults of a process that gets large buffers on threads and keeps the latest."""
    command = [sys.executable, "-c", READS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr.startswith("no glibc"):
        pytest.xfail("another C library than glibc")
    return int(done.stdout)


def test_buffers_that_were_freed_cost_no_page_faults() -> None:
    assert faults_a_mib("reused") < 10
