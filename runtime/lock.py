"""One writer at a time: the lock of a workspace, held by the operating system and so released by any death."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mmcl_edge.errors import IntegrityError, LockedError, StorageError
from mmcl_edge.fileio import canonical_json, read_json, storage_errors, write_atomic

LOCK_NAME = ".lock"
HOLDER_NAME = ".lock-holder.json"
PATIENCE_S = 1.0
"""How long a non-blocking caller waits: long enough for another process to sweep or to swap a link."""

logger = logging.getLogger(__name__)


@contextmanager
def workspace_lock(root: Path, *, blocking: bool = False) -> Iterator[None]:
    """Hold the workspace ``root`` alone. A thread that holds it may take it again.

    Args:
        root: the workspace's folder.
        blocking: wait for as long as it takes, instead of about a second.

    Raises:
        LockedError: another process or thread holds it; the message names the process.
        StorageError: the lock file cannot be written (read-only home).
    """
    lock = FileLock(root / LOCK_NAME, is_singleton=True)
    try:
        with storage_errors(root / LOCK_NAME):
            lock.acquire(timeout=-1 if blocking else PATIENCE_S)
    except Timeout as error:
        raise LockedError(_sentence(root)) from error
    try:
        if lock.lock_counter == 1:
            _sign(root / HOLDER_NAME)
        yield
    finally:
        lock.release()


def _sign(holder: Path) -> None:
    """Leave a note for those who find the lock taken. The lock holds without it (on a full disk, say)."""
    try:
        write_atomic(holder, canonical_json({"pid": os.getpid(), "command": " ".join(sys.argv)[:200]}))
    except StorageError as error:
        logger.debug("no note beside the lock: %s", error)


def _sentence(root: Path) -> str:
    pid, command = "unknown", ""
    with suppress(IntegrityError, OSError):
        note = read_json(root / HOLDER_NAME, 4096)
        if isinstance(note, dict):
            pid, command = str(note.get("pid")), str(note.get("command", ""))
    return (
        f"The workspace {root} should be free, but the process {pid} ({command or 'unknown command'}) "
        "is working in it; wait until it ends and run the same command again."
    )
