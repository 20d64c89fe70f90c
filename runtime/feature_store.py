"""Features of samples on disk, under a byte budget: later epochs, resumed runs and later experiences read them.

Layout of ``features/`` in a workspace::

    <key>-<first 16 letters of the content's sha256>.safetensors

It is a cache: whatever is missing, damaged or does not fit is worked out anew, never refused. A file is verified when
it is first read. The folder never holds more than the budget; the longest unused go first, but none that the
experience at work has touched.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from mmcl_edge.adapters.kept import Kept
from mmcl_edge.errors import IntegrityError, StorageError
from mmcl_edge.fileio import read_bounded, sha256_bytes, write_atomic
from mmcl_edge.learners.shelf import Shelf

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<key>[0-9a-f]{64})-(?P<digest>[0-9a-f]{16})\.safetensors")


class DiskFeatures:
    """A ``FeatureStore`` in a folder.

    Args:
        folder: of this store alone; made when first written to.
        budget_bytes: of all files together; what is there beyond it is removed.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self._shelf = Shelf(budget_bytes)
        self._names: dict[str, str] = {}
        self._verified: set[str] = set()
        self._writable = True
        found = {path: path.stat() for path in folder.glob("*") if _NAME.fullmatch(path.name)}
        for path in sorted(found, key=lambda path: found[path].st_mtime_ns):
            self._add(path.name, found[path].st_size)
            self.release()  # so that a later one may take its place

    @property
    def used_bytes(self) -> int:
        """Size of everything kept."""
        return self._shelf.used_bytes

    def get(self, key: str) -> Kept | None:
        """See ``FeatureStore``."""
        name = self._names.get(key)
        if name is None:
            return None
        path = self.folder / name
        with suppress(IntegrityError, SafetensorError, OSError):
            data = read_bounded(path, self._shelf.budget_bytes)
            if key in self._verified or name == _name(key, data):
                kept = load(data)
                self._claim(key, path)
                return kept
        self._forget(key)
        return None

    def put(self, key: str, kept: Kept) -> None:
        """See ``FeatureStore``. A disk that refuses to take a file is asked no more."""
        data = save(kept)
        if not self._writable or not self._add(_name(key, data), len(data)):
            return
        try:
            write_atomic(self.folder / _name(key, data), data)
        except (StorageError, OSError) as error:
            logger.warning("features are not kept, so every epoch works them out anew: %s", error)
            self._writable = False
            self._forget(key)

    def release(self) -> None:
        """See ``FeatureStore``."""
        self._shelf.release()

    def _add(self, name: str, size_bytes: int) -> bool:
        """Enter a file in the books and remove what has to go for it; if it cannot stay, remove the file itself."""
        key = name[:64]
        if self._names.get(key, name) != name:
            self._forget(key)
        dropped = self._shelf.add(key, size_bytes)
        if dropped is None:
            self._remove(name)
            return False
        for old in dropped:
            self._remove(self._names.pop(old))
        self._names[key] = name
        return True

    def _claim(self, key: str, path: Path) -> None:
        if key not in self._verified:
            self._verified.add(key)
            os.utime(path)  # the next process knows by it what was used last
        self._shelf.claim(key)

    def _forget(self, key: str) -> None:
        self._shelf.remove(key)
        self._remove(self._names.pop(key))

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)


def _name(key: str, data: bytes) -> str:
    return f"{key}-{sha256_bytes(data)[:16]}.safetensors"
