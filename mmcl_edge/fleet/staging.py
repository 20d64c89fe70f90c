"""Fetching a released pack: into a folder beside everything else, verified whole, before anyone may use it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmcl_edge.errors import MissingObjectError, PackError
from mmcl_edge.fileio import STAGING_PREFIX, storage_errors
from mmcl_edge.fleet.client import FleetClient
from mmcl_edge.fleet.layout import MAX_ARCHIVE_BYTES, ReleasedPack
from mmcl_edge.packs import holds_pack
from mmcl_edge.packs.archive import open_archive
from mmcl_edge.runtime.workspace import Workspace

logger = logging.getLogger(__name__)

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Staged:
    """A verified pack that is not in use.

    Attributes:
        folder: of the pack.
        fetched_bytes: what was downloaded for it; 0 where it was here.
        delta_from: the pack here that the download started from.
    """

    folder: Path
    fetched_bytes: int = 0
    delta_from: str | None = None


@contextmanager
def staging_folder(workspace: Workspace) -> Iterator[Path]:
    """A folder for what is being fetched; removed at the end, and swept by the next ``open`` after a cut.

    Raises:
        StorageError: it cannot be made.
    """
    with storage_errors(workspace.trust_path):
        workspace.trust_path.mkdir(mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=workspace.trust_path, prefix=STAGING_PREFIX))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage(workspace: Workspace, client: FleetClient, released: ReleasedPack, folder: Path, on_stage: OnStage) -> Staged:
    """Bring the released pack here: the one that is here already; else by the smallest delta whose parent is here;
    else, or where a delta cannot be applied, whole.

    Args:
        workspace: of the device.
        client: refreshed.
        released: what to bring.
        folder: from ``staging_folder``.
        on_stage: told what is being fetched.

    Raises:
        PackError: made for another bundle than the installed one, or broken.
        TrustError: what the store gives is not what was signed.
        StoreError: the store does not answer.
        StorageError: a file cannot be written.
    """  # noqa: D205
    check_bundle(workspace, released)
    here = workspace.packs_path / released.pack
    if holds_pack(here, released.pack):
        return Staged(here)
    sizes = {parent: size for parent, size in released.deltas.items() if (workspace.packs_path / parent).is_dir()}
    fetched = 0
    for parent in sorted(sizes, key=lambda digest: (sizes[digest], digest)):
        if sizes[parent] >= released.size_bytes:
            break
        path = released.delta(parent)
        on_stage(f"fetch a delta of {sizes[parent]:,} bytes")
        try:
            fetched += _fetch(client, path, folder / "archive")
            return Staged(_open(workspace, folder, released.pack), fetched, parent)
        except (PackError, MissingObjectError) as error:
            logger.warning("the delta from %s cannot be used, so the whole pack is fetched: %s", parent[:16], error)
    on_stage(f"fetch {released.size_bytes:,} bytes")
    fetched += _fetch(client, released.archive, folder / "archive")
    return Staged(_open(workspace, folder, released.pack), fetched)


def check_bundle(workspace: Workspace, released: ReleasedPack) -> None:
    """Refuse a release for another bundle before anything is downloaded.

    Raises:
        PackError: it is for another bundle.
        BundleError: none is installed.
    """
    _ = workspace.bundle_path
    family = workspace.bundle_family()
    if released.bundle != family:
        raise PackError(
            f"The released pack {released.pack[:16]}... was made for the bundle {released.bundle[:16]}..., but the "
            f"bundle here is {str(family)[:16]}...; nothing was changed. Install that bundle "
            "(mmcl-edge init --bundle DIR --replace), or follow another channel."
        )


def _fetch(client: FleetClient, path: str, file: Path) -> int:
    return client.fetch(path, file, max_bytes=MAX_ARCHIVE_BYTES).stat().st_size


def _open(workspace: Workspace, folder: Path, digest: str) -> Path:
    def parent_of(parent: str) -> Path | None:
        found = workspace.packs_path / parent
        return found if found.is_dir() else None

    open_archive(
        folder / "archive",
        folder / "packs",
        parent_of=parent_of,
        bundle_digest=workspace.bundle_family(),
        expected_digest=digest,
    )
    return folder / "packs" / digest
