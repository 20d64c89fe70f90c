"""What lies in the inbox, as it is listed: names and sizes, nothing verified."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmcl_edge.fleet.layout import INBOX
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.uploads import UPLOAD_NAME, is_piece

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One folder of the inbox, as it is listed: nothing is verified.

    Attributes:
        keyid: of the device, as the folder says.
        pack: its digest, as the folder says.
        files: names of the objects to their sizes in bytes.
    """

    keyid: str
    pack: str
    files: Mapping[str, int]

    @property
    def is_whole(self) -> bool:
        """Whether its description is there, which is written last."""
        return UPLOAD_NAME in self.files

    @property
    def size_bytes(self) -> int:
        """Of all its objects."""
        return sum(self.files.values())


@dataclass(frozen=True)
class Listing:
    """What the inbox holds.

    Attributes:
        entries: by device and pack.
        strangers: paths of objects that are no part of an upload.
    """

    entries: tuple[Entry, ...]
    strangers: tuple[str, ...]


def list_inbox(store: Store) -> Listing:
    """What lies in the inbox of ``store``; nothing is read but names and sizes.

    Raises:
        StoreError: the store does not answer, or cannot be listed.
    """
    folders: dict[tuple[str, str], dict[str, int]] = {}
    strangers = []
    for stored in store.list(INBOX):
        parts = stored.path.split("/")
        if len(parts) == 4 and all(map(_HEX.fullmatch, parts[1:3])) and (is_piece(parts[3]) or parts[3] == UPLOAD_NAME):
            folders.setdefault((parts[1], parts[2]), {})[parts[3]] = stored.size_bytes
        else:
            strangers.append(stored.path)
    entries = tuple(Entry(*place, files) for place, files in sorted(folders.items()))
    return Listing(entries, tuple(sorted(strangers)))
