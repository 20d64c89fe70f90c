"""Where a pack comes from, as far as its ancestors are here."""

from __future__ import annotations

from pathlib import Path

from mmcl_edge.errors import PackError
from mmcl_edge.packs.manifest import PackManifest
from mmcl_edge.packs.reader import read_manifest

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
        if digest == stop:
            continue
        try:
            left += [parent.digest for parent in read_manifest(packs / digest)[0].parents]
        except PackError:
            continue
    return frozenset(found)
