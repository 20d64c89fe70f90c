"""What a process holds in memory, as Linux counts it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

FIELDS = ("Rss", "Anonymous")


def memory_kib() -> dict[str, int]:
    """Resident and anonymous KiB of this process: anonymous is what no file on disk stands behind."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return {name: int(found[1]) for name in FIELDS if (found := re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE))}


def give_back_free_memory() -> None:
    """Let the C library return what nobody uses any more, so that only what is held is counted."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
