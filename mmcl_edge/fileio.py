"""Files: digests, bounded reads, atomic writes. Every write in the project goes through here.

Rules:
1. A reader says how many bytes it is ready to take, and refuses more before reading them.
2. A file appears whole or not at all: temporary file in the same folder, flush, fsync, rename.
3. A folder appears whole or not at all: temporary folder beside it, fsync, rename.
4. A link is moved by rename, never removed first.
5. A folder goes whole: renamed to a temporary name, then removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmcl_edge.errors import IntegrityError, StorageError

STAGING_PREFIX = ".staging-"
"""Temporary names begin so; anything that carries it is rubbish from an interrupted write."""

_STORAGE_ADVICE = {
    errno.ENOSPC: "no space is left on the device; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some and run the same command again",
    errno.EFBIG: "the file is larger than the file system or a limit (ulimit -f) allows; choose another folder",
    errno.EIO: "the device reports an input/output error; check the disk before anything else is lost",
    errno.EROFS: "the file system is read-only; choose a writable folder (MMCL_EDGE_HOME or --out)",
    errno.EACCES: "permission was denied; choose a folder you may write to (MMCL_EDGE_HOME or --out)",
    errno.EPERM: "the operation is not permitted; choose a folder you may write to (MMCL_EDGE_HOME or --out)",
}


def canonical_json(value: Any) -> bytes:
    """``value`` as the one byte string that stands for it: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def pretty_json(value: Any) -> bytes:
    """``value`` as stable, indented JSON with a final newline, for files that people read."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The file's bytes, at most ``max_bytes``.

    Raises:
        IntegrityError: the file is missing, not a regular file, or larger than ``max_bytes``.
    """
    if not path.is_file():
        raise IntegrityError(f"Expected a file at {path}, but there is none; restore it or make it again.")
    size = path.stat().st_size
    if size > max_bytes:
        raise IntegrityError(
            f"{path} has {size:,} bytes, but at most {max_bytes:,} are accepted there; "
            "it was not read. Replace it with a genuine one."
        )
    return path.read_bytes()


def read_json(path: Path, max_bytes: int = 4 << 20) -> Any:
    """Parsed JSON of a bounded file.

    Raises:
        IntegrityError: missing, too large, or not JSON.
    """
    data = read_bounded(path, max_bytes)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} should be JSON, but it does not parse ({error}); make it again.") from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write ``path`` into a ``StorageError`` sentence."""
    try:
        yield
    except OSError as error:
        advice = _STORAGE_ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise StorageError(f"Could not write {path}: {advice}.") from error


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old bytes or the new ones, never a mixture.

    Raises:
        StorageError: no space, read-only, no permission.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=STAGING_PREFIX)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        fsync_folder(path.parent)


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a temporary folder; on success it becomes ``target`` by rename, on any error nothing is left.

    Args:
        target: the folder to appear.
        replace: an existing ``target`` is moved aside and removed after the rename; otherwise it is an error.

    Raises:
        StorageError: ``target`` exists and ``replace`` is false, or the system refuses to write.
    """
    if target.exists() and not replace:
        raise StorageError(f"{target} exists already; choose another folder or remove it first.")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=STAGING_PREFIX))
    try:
        with storage_errors(target):
            staging.chmod(0o755)
            yield staging
            _sync_tree(staging)
            _take_place(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            fsync_folder(path)
    fsync_folder(folder)


def _take_place(staging: Path, target: Path) -> None:
    if target.exists():
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=STAGING_PREFIX))
        os.replace(target, aside / "old")
        try:
            os.replace(staging, target)
        except BaseException:
            os.replace(aside / "old", target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(staging, target)
    fsync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove ``folder`` with all that is in it; links in it are removed, not followed.

    Nothing is written, so it works on a full disk. What a cut leaves has a temporary name.

    Raises:
        StorageError: the system refuses.
    """
    aside = folder.parent / f"{STAGING_PREFIX}{folder.name}-{os.getpid()}"
    with storage_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        fsync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def keep_file(source: Path, target: Path, *, max_bytes: int) -> None:
    """Let the content of ``source`` be at ``target`` too: by a second name, which takes no space, or else by a copy.

    Raises:
        IntegrityError: ``source`` is missing or larger than ``max_bytes``.
        StorageError: the system refuses to write.
    """
    data = read_bounded(source, max_bytes)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            os.link(source, target, follow_symlinks=False)
            fsync_folder(target.parent)
            return
    write_atomic(target, data)


def point_link(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target`` (relative text), by rename: it never dangles in between.

    Raises:
        StorageError: the system refuses to write.
    """
    with storage_errors(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.parent / f"{STAGING_PREFIX}{link.name}-{os.getpid()}"
        with suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(target)
        os.replace(temporary, link)
        fsync_folder(link.parent)


def sweep_staging(folder: Path) -> int:
    """Remove what interrupted writes left in ``folder``; returns how many entries went."""
    count = 0
    for path in folder.glob(f"{STAGING_PREFIX}*") if folder.is_dir() else ():
        remove: Callable[[Path], None] = shutil.rmtree if path.is_dir() and not path.is_symlink() else Path.unlink
        with suppress(OSError):
            remove(path)
            count += 1
    return count
