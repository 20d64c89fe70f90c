"""A neighbour that keeps one core busy while others are timed, as the rest of an application would."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

LOADS = ("idle", "busy")
_BUSY = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    value = 1
    for number in range(2_000_000):
        value = value * 48_271 % 2_147_483_647
"""


@contextlib.contextmanager
def neighbour(load: str) -> Iterator[None]:
    """With ``busy``, a process of its own computes without a pause; it is bound to no core. With ``idle``, nothing.

    It ends with the block, and by itself if this process is gone.
    """
    if load == "idle":
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())])
    try:
        yield
    finally:
        process.terminate()
        process.wait()
