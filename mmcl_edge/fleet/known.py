"""The fleets that an admin knows: what is trusted and was last seen of each, beside the admin's keys.

One file a fleet, ``fleets/<beginning of the sha256 of its URL>.json`` in the folder of keys. A store that is set back
to an older state, or another fleet in its place, is noticed by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmcl_edge.errors import FleetError
from mmcl_edge.fileio import canonical_json, read_bounded, sha256_bytes, storage_errors, write_atomic
from mmcl_edge.fleet.layout import MAX_METADATA_BYTES, parse
from mmcl_edge.fleet.metadata import Memory
from mmcl_edge.fleet.store_backends import without_secrets
from mmcl_edge.packs.private_keys import make_folder
from mmcl_edge.types import FrozenModel

FOLDER = "fleets"


class KnownFleet(FrozenModel):
    """Contents of one file. ``url`` has no password."""

    schema_version: Literal[1] = 1
    url: str
    memory: Memory


class KnownFleets:
    """The fleets known in ``keys_folder``."""

    def __init__(self, keys_folder: Path) -> None:
        self.folder = keys_folder / FOLDER

    def urls(self) -> tuple[str, ...]:
        """URLs of all of them, without secrets, in order."""
        files = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ()
        return tuple(sorted(self._read(file).url for file in files))

    def find(self, url: str) -> Memory | None:
        """What is remembered of the fleet at ``url``; ``None`` if it is not known.

        Raises:
            IntegrityError: the file is broken.
        """
        file = self._file(url)
        return self._read(file).memory if file.exists() else None

    def keep(self, url: str, memory: Memory) -> None:
        """Remember the fleet at ``url``; what was seen of it never goes back.

        Raises:
            StorageError: the folder cannot be written.
        """
        before = self.find(url)
        if before is not None and before.timestamp > memory.timestamp:
            return
        known = KnownFleet(url=_shown(url), memory=memory)
        with storage_errors(self.folder):
            for folder in (self.folder.parent, self.folder):
                make_folder(folder)
        write_atomic(self._file(url), canonical_json(known.model_dump(mode="json")), mode=0o600)

    def choose(self, url: str | None) -> str:
        """``url``, or that of the only fleet known.

        Raises:
            FleetError: none is given, and none or several are known.
        """
        if url is not None:
            return url
        known = self.urls()
        if len(known) != 1:
            state = f"{len(known)} are known ({', '.join(known)})" if known else "none is known"
            raise FleetError(
                f"Expected to know which fleet is meant, but {state}; say --fleet URL, or set MMCL_EDGE_FLEET "
                "(mmcl-edge fleet init makes one)."
            )
        return known[0]

    def _file(self, url: str) -> Path:
        return self.folder / f"{sha256_bytes(_shown(url).encode())[:16]}.json"

    def _read(self, file: Path) -> KnownFleet:
        return parse(KnownFleet, read_bounded(file, MAX_METADATA_BYTES), str(file))


def _shown(url: str) -> str:
    return without_secrets(url) if "://" in url else str(Path(url).expanduser().absolute())
