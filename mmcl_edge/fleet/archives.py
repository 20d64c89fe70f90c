"""From packs to archives in the store, and back: whole, and as deltas from what devices are likely to have."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile

from mmcl_edge.errors import FleetError
from mmcl_edge.fleet.layout import MAX_ARCHIVE_BYTES, ReleasedPack, archive_target, delta_target, target_path
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.view import View
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.packs.archive import archive_of, open_archive

WORTH = 0.9
"""A delta is kept where it is smaller than this share of the whole archive."""


@dataclass(frozen=True)
class Carried:
    """A pack whose archives are in the store; ``targets`` are not signed yet."""

    released: ReleasedPack
    targets: tuple[TargetFile, ...]


@contextmanager
def fetched(view: View, digests: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Folders of released packs, fetched and verified; they go when the block ends. What is missing is left out."""
    with tempfile.TemporaryDirectory(prefix="mmcl-edge-") as name:
        found = {}
        for digest in digests:
            info = view.archive(archive_target(digest))
            if info is not None:
                file = Path(name) / "archive"
                file.write_bytes(view.fetch(info.path, info))
                open_archive(file, Path(name), expected_digest=digest)
                found[digest] = Path(name) / digest
        yield found


def carry(store: Store, pack: Pack, parents: dict[str, Path]) -> Carried:
    """Write the archives of ``pack`` to ``store``: the whole one, and deltas from ``parents`` where they are worth it.

    Raises:
        PackError: a pack is broken.
        StoreError: the store cannot be written.
    """
    whole = _upload(store, archive_target(pack.digest), archive_of(pack))
    targets, deltas = [whole], {}
    for digest, folder in parents.items():
        delta = archive_of(pack, read_pack(folder, expected_digest=digest))
        if len(delta) < WORTH * whole.length:
            targets.append(_upload(store, delta_target(pack.digest, digest), delta))
            deltas[digest] = len(delta)
    released = ReleasedPack(
        pack=pack.digest,
        version=pack.manifest.version,
        bundle=pack.manifest.bundle_digest,
        size_bytes=whole.length,
        deltas=deltas,
    )
    return Carried(released, tuple(targets))


def _upload(store: Store, target: str, data: bytes) -> TargetFile:
    if len(data) > MAX_ARCHIVE_BYTES:
        raise FleetError(f"{target} would have {len(data):,} bytes; at most {MAX_ARCHIVE_BYTES:,} are taken.")
    info = TargetFile.from_data(target, data, ["sha256"])
    store.put(target_path(target, info.hashes["sha256"]), data)
    return info
