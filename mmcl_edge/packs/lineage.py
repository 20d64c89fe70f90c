"""Where a pack comes from, as far as its ancestors are here, or were.

Of a pack that is removed for its space, ``<packs>/lineage/<digest>.json`` keeps the manifest: it says what went into
the packs made from it, which a withdrawal asks for. Its name is the sha256 of its bytes, so a changed one is noticed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mmcl_edge.errors import IntegrityError, PackError
from mmcl_edge.fileio import keep_file, read_bounded
from mmcl_edge.packs.manifest import MANIFEST_NAME, MAX_BYTES, PackManifest
from mmcl_edge.packs.reader import parse_manifest, read_manifest

LINEAGE_FOLDER = "lineage"
MAX_ANCESTORS = 1000


def ancestors(manifest: PackManifest, packs: Path, *, stop: str | None = None) -> frozenset[str]:
    """Digests of the packs that a pack was made from, directly or not; at most some more than ``MAX_ANCESTORS``.

    Args:
        manifest: of the pack.
        packs: folder of packs by digest; where an ancestor is missing or broken, its own are not known.
        stop: digest of a pack whose own ancestors do not count.
    """
    found: set[str] = set()
    left = [parent.digest for parent in manifest.parents]
    while left and len(found) < MAX_ANCESTORS:
        digest = left.pop()
        if digest in found:
            continue
        found.add(digest)
        known = None if digest == stop else known_manifest(digest, packs)
        left += [] if known is None else [parent.digest for parent in known.parents]
    return frozenset(found)


def known_manifest(digest: str, packs: Path) -> PackManifest | None:
    """The manifest of a pack that is in ``packs``, or was until it was removed; ``None`` where neither is readable."""
    with suppress(PackError):
        return read_manifest(packs / digest)[0]
    file = lineage_file(digest, packs)
    with suppress(IntegrityError):
        manifest, found = parse_manifest(read_bounded(file, MAX_BYTES[MANIFEST_NAME]), str(file))
        return manifest if found == digest else None
    return None


def keep_manifest(digest: str, packs: Path) -> None:
    """Keep the manifest of a pack that is about to be removed.

    Raises:
        IntegrityError: it cannot be read.
        StorageError: it cannot be written.
    """
    source = packs / digest / MANIFEST_NAME
    keep_file(source, lineage_file(digest, packs), max_bytes=MAX_BYTES[MANIFEST_NAME])


def lineage_file(digest: str, packs: Path) -> Path:
    """Where the manifest of a removed pack is kept."""
    return packs / LINEAGE_FOLDER / f"{digest}.json"
