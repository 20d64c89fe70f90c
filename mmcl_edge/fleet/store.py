"""An object store by URL: bounded reads, conditional writes, listing in pages, and retries that end.

Rules, in the order in which every call performs them:

1. The path is checked: relative, plain segments, no ``..``.
2. The call is tried; a passing failure (a server that is busy or gone) is tried again after a growing, random delay.
3. What is read is refused above the caller's limit: by the stated size before reading, and by the count while reading.
4. What remains is one ``StoreError`` sentence, without the URL's secrets.

Writing is all or nothing on every backend; in a folder, ``flush`` makes it outlast a power cut. ``create`` writes only
where nothing is, ``replace`` only over the object that was read: two admins never overwrite one another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_edge.errors import MissingObjectError, OversizedObjectError, StoreError
from mmcl_edge.fileio import write_atomic
from mmcl_edge.fleet.parallel import in_parallel
from mmcl_edge.fleet.store_backends import Backend, open_backend
from mmcl_edge.fleet.store_errors import classify
from mmcl_edge.fleet.store_retry import FIRST_DELAY_S, RETRIES, Retry

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PIECE_BYTES = 1 << 20
PAGE = 1000
LOCK_NAME = ".replace.lock"
"""In a folder: held while ``replace`` compares and writes."""

_MAX_PATH = 512
_SEGMENT = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")


@dataclass(frozen=True)
class Stored:
    """One row of a listing. ``path`` is what the store says and may be hostile: check it before use."""

    path: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class Version:
    """The bytes of an object as they were read, and the store's tag of them: what ``replace`` compares with."""

    data: bytes
    tag: str | None


def check_path(path: str) -> str:
    """``path`` itself, if it is a safe name of an object.

    Raises:
        StoreError: absolute, too long, or with a segment that is empty, hidden, ``..`` or of other characters.
    """
    if len(path) > _MAX_PATH or not all(_SEGMENT.match(segment) for segment in path.split("/")):
        raise StoreError(
            f"Expected a relative path of letters, digits, '.', '_' and '-', but found {path[:80]!r}; "
            "nothing was read or written there."
        )
    return path


class Store:
    """An object store. Use ``Store.open``; one may be shared by threads.

    Example:
        >>> store = Store.open("memory://example")
        >>> store.create("a/b.json", b"{}"), store.create("a/b.json", b"[]"), store.get("a/b.json", max_bytes=10)
        (True, False, b'{}')
    """

    def __init__(self, backend: Backend, *, retries: int = RETRIES, first_delay_s: float = FIRST_DELAY_S) -> None:
        self._backend = backend
        self._retry = Retry(backend.shown, retries=retries, first_delay_s=first_delay_s)
        self._unflushed: set[Path] = set()

    @classmethod
    def open(
        cls, url: str, *, create: bool = False, retries: int = RETRIES, first_delay_s: float = FIRST_DELAY_S
    ) -> Store:
        """Open the store at ``url``; ``create`` makes a folder that is not there. No request is made yet.

        Args:
            url: a folder's path, or ``file://``, ``http(s)://``, ``s3://``, ``gs://``, ``az://``, ``memory://``.
            create: make the folder where there is none.
            retries: how often a failed call is tried again.
            first_delay_s: seconds before the second try; each later one waits twice as long, and up to half less.

        Raises:
            StoreError: the URL is mistyped, or the folder is not there.
        """
        return cls(open_backend(url, create=create), retries=retries, first_delay_s=first_delay_s)

    @property
    def url(self) -> str:
        """The URL without user, password and query: for print."""
        return self._backend.shown

    @property
    def sleep(self) -> Callable[[float], None]:
        """What waits, seconds, before a call is tried again."""
        return self._retry.sleep

    @sleep.setter
    def sleep(self, wait: Callable[[float], None]) -> None:
        self._retry.sleep = wait

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def get(self, path: str, max_bytes: int) -> bytes:
        """The bytes of the object at ``path``, at most ``max_bytes``.

        Raises:
            MissingObjectError: there is no such object.
            OversizedObjectError: it is larger.
            StoreError: the store cannot be used.
        """
        return self.read(path, max_bytes).data

    def read(self, path: str, max_bytes: int) -> Version:
        """Like ``get``, with the tag that ``replace`` needs."""
        return self._retry.run(f"read {check_path(path)}", lambda: self._read(path, max_bytes))

    def put(self, path: str, data: bytes | Path) -> None:
        """Write ``data`` (bytes, or a file of them) to ``path``, over whatever is there.

        Raises:
            StoreError: the store cannot be written.
        """
        self._retry.run(f"write {check_path(path)}", lambda: self._put(self._backend.store, path, data))

    def create(self, path: str, data: bytes) -> bool:
        """Write ``data`` to ``path`` only if nothing is there; ``False`` if something is (of another writer).

        An answer that got lost is looked up: what is there and equal was written by this call.

        Raises:
            StoreError: the store cannot be written.
        """
        check_path(path)
        attempts: list[None] = []

        def once() -> bool:
            attempts.append(None)
            return self._create(path, data)

        created = self._retry.run(f"write {path}", once)
        return created or (len(attempts) > 1 and self._holds(path, data))

    def replace(self, path: str, data: bytes, seen: Version) -> bool:
        """Write ``data`` over the object that was read as ``seen``; ``False`` if another writer changed it since.

        Raises:
            StoreError: the store cannot be written, or cannot do so on a condition.
        """
        check_path(path)
        attempts: list[None] = []

        def once() -> bool:
            attempts.append(None)
            return self._replace(path, data, seen)

        replaced = self._retry.run(f"write {path}", once)
        return replaced or (len(attempts) > 1 and self._holds(path, data))

    def flush(self) -> None:
        """Return once everything that was written is on the disk, where the store is a folder; others see to it.

        Raises:
            StoreError: the disk fails.
        """
        files, self._unflushed = self._unflushed, set()
        try:
            in_parallel(_fsync, sorted(files))
            in_parallel(_fsync, sorted({file.parent for file in files}))
        except OSError as error:
            raise classify(error, self.url, "flush").error from None

    def exists(self, path: str) -> bool:
        """Whether there is an object at ``path``.

        Raises:
            StoreError: the store cannot be used.
        """
        import obstore

        try:
            self._retry.run(f"look for {check_path(path)}", lambda: obstore.head(self._backend.store, path))
        except MissingObjectError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Remove the object at ``path``; nothing happens where there is none.

        Raises:
            StoreError: the store cannot be written.
        """
        import obstore

        with suppress(MissingObjectError):
            self._retry.run(f"remove {check_path(path)}", lambda: obstore.delete(self._backend.store, path))

    def list(self, prefix: str) -> Iterator[Stored]:
        """Every object below the folder ``prefix``, in no order, fetched page by page.

        Raises:
            StoreError: the store cannot be listed (a plain web server cannot).
        """
        seen: set[str] = set()
        failures = 0
        pages = self._pages(prefix)
        while True:
            try:
                page = next(pages, None)
            except Exception as error:  # noqa: BLE001 - classified in one place
                failures += 1
                self._retry.wait_or_raise(error, f"list {prefix}", failures)
                pages = self._pages(prefix)
                continue
            if page is None:
                return
            for entry in page:
                if entry["path"] not in seen:
                    seen.add(entry["path"])
                    yield Stored(entry["path"], entry["size"], entry["last_modified"])

    def _pages(self, prefix: str) -> Iterator[Any]:
        import obstore

        return iter(obstore.list(self._backend.store, check_path(prefix), chunk_size=PAGE))

    def _read(self, path: str, max_bytes: int) -> Version:
        import obstore

        result = obstore.get(self._backend.store, path)
        size = result.meta["size"]
        if size > max_bytes:
            raise _oversized(path, size, max_bytes)
        pieces, count = [], 0
        for piece in result.stream(min_chunk_size=PIECE_BYTES):
            count += len(piece)
            if count > max_bytes:
                raise _oversized(path, count, max_bytes)
            pieces.append(bytes(piece))
        return Version(b"".join(pieces), result.meta["e_tag"])

    def _put(self, store: ObjectStore, path: str, data: bytes | Path, **options: Any) -> None:
        import obstore

        obstore.put(store, path, data, **options)
        if self._backend.folder is not None:
            self._unflushed.add(self._backend.folder / path)

    def _create(self, path: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            if self._backend.kind == "http":
                self._put(self._backend.with_headers({"If-None-Match": "*"}), path, data, use_multipart=False)
            else:
                self._put(self._backend.store, path, data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _replace(self, path: str, data: bytes, seen: Version) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        if self._backend.folder is not None:
            return self._replace_in_folder(self._backend.folder, path, data, seen)
        if seen.tag is None:
            raise StoreError(
                f"The store {self.url} gives no tags (ETag), so two admins could overwrite one another; "
                "give the address of the folder or bucket behind it."
            )
        try:
            if self._backend.kind == "http":
                self._put(self._backend.with_headers({"If-Match": seen.tag}), path, data, use_multipart=False)
            else:
                self._put(self._backend.store, path, data, mode={"e_tag": seen.tag})
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _replace_in_folder(self, folder: Path, path: str, data: bytes, seen: Version) -> bool:
        from filelock import FileLock

        with FileLock(folder / LOCK_NAME):
            unchanged = self._holds(path, seen.data)
            if unchanged:
                write_atomic(folder / path, data)
        return unchanged

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self.get(path, len(data)) == data
        except (MissingObjectError, OversizedObjectError):
            return False


def _fsync(path: Path) -> None:
    """Make a file or a folder that is still there last."""
    with suppress(FileNotFoundError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _oversized(path: str, size: int, limit: int) -> OversizedObjectError:
    return OversizedObjectError(
        f"{path} has {size:,} bytes or more, but at most {limit:,} are accepted there; it was not read to its end."
    )
