"""Prune: remove the packs of a device that nothing needs, and what was kept for them alone.

Rules, in this order; whatever refuses, nothing is removed:

1. The workspace is locked. A pack is in use: without one, nothing says what is needed.
2. Every link, record and index of exemplars can be read.
3. What is needed stays (``fleet.needs``), and so do the newest of the others, if the caller wants some. What is no pack
   of ours (a link, another folder, a pack with something else in it or a damaged manifest) is left, and named.
4. Of each pack that goes, the manifest is kept, if a pack that stays was made from it (``packs.lineage``). Then the
   pack is renamed, so that it is gone whole, and its files are removed.
5. Manifests that no pack here comes from any more are removed, and exemplars that no pack here has.

A cut leaves every pack whole or gone, and the same call goes on. What a cut left under a temporary name is swept by the
next ``open`` of the workspace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mmcl_edge.errors import InputError, PackError
from mmcl_edge.fileio import STAGING_PREFIX, remove_folder, storage_errors
from mmcl_edge.fleet.needs import needed_packs
from mmcl_edge.packs import read_manifest
from mmcl_edge.packs.lineage import LINEAGE_FOLDER, ancestors, keep_manifest, known_manifest
from mmcl_edge.packs.manifest import DETACHED_NAMES, MAX_BYTES
from mmcl_edge.runtime.links import DIGEST
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import Workspace

NEWEST = "one of the newest of the others"


@dataclass(frozen=True)
class Removed:
    """A pack that was removed, or would be.

    Attributes:
        digest: its digest.
        version: its version.
        size_bytes: of its files.
    """

    digest: str
    version: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """What pruning did, or would do.

    Attributes:
        dry_run: nothing was removed.
        removed: packs, newest version first.
        kept: digest of a pack that stays, to the reason.
        left: name of what is in ``packs/`` and is no pack of ours, to the reason.
        freed_bytes: of packs and exemplars; in a dry run of packs alone.
        exemplar_files: how many files of exemplars went; ``None`` in a dry run.
    """

    dry_run: bool
    removed: tuple[Removed, ...]
    kept: dict[str, str]
    left: dict[str, str] = field(default_factory=dict)
    freed_bytes: int = 0
    exemplar_files: int | None = None


def prune(workspace: Workspace, *, keep: int = 0, dry_run: bool = False) -> PruneReport:
    """Remove packs that nothing needs (the rules stand in the module docstring).

    Args:
        workspace: of the device.
        keep: how many of those stay all the same, the newest versions first.
        dry_run: only say what would go.

    Raises:
        LockedError: another process works in the workspace.
        InputError: no pack is in use.
        PackError: a link is damaged.
        IntegrityError: a record or an index of exemplars is.
        StorageError: something cannot be removed; the same call goes on.
    """
    with workspace.lock():
        planned = _planned(workspace, keep)
        if dry_run:
            return planned
        exemplars = _remove(workspace, planned)
    return PruneReport(
        dry_run=False,
        removed=planned.removed,
        kept=planned.kept,
        left=planned.left,
        freed_bytes=planned.freed_bytes + exemplars[1],
        exemplar_files=exemplars[0],
    )


def _planned(workspace: Workspace, keep: int) -> PruneReport:
    """Rules 1 to 3."""
    if workspace.current_pack() is None:
        raise InputError(
            f"Expected a pack in use in {workspace.root}, as that says what is needed, but there is none; choose one "
            "with 'mmcl-edge pack use'."
        )
    needed, ours, left = needed_packs(workspace), list[Removed](), dict[str, str]()
    with storage_errors(workspace.packs_path):
        for path in sorted(workspace.packs_path.iterdir()):
            if path.name == LINEAGE_FOLDER or path.name.startswith(STAGING_PREFIX):
                continue
            found = _pack(path)
            if isinstance(found, Removed):
                ours.append(found)
            elif path.name not in needed:
                left[path.name] = found
    spare = sorted((one for one in ours if one.digest not in needed), key=lambda one: (-one.version, one.digest))
    why = {**dict.fromkeys((one.digest for one in spare[:keep]), NEWEST), **needed}
    kept = {folder.name: why[folder.name] for folder in workspace.list_packs() if folder.name in why}
    store = ReplayStore(workspace.replay_path)
    for digest in (*kept, *left):
        store.objects_of(digest)
    removed = tuple(spare[keep:])
    return PruneReport(
        dry_run=True, removed=removed, kept=kept, left=left, freed_bytes=sum(one.size_bytes for one in removed)
    )


def _pack(path: Path) -> Removed | str:
    """The pack at ``path``, or why it is none of ours. Its tensors are not verified: nobody reads them any more."""
    if path.is_symlink():
        return "it is a link"
    if not (DIGEST.fullmatch(path.name) and path.is_dir()):
        return "it is no pack"
    files = list(path.iterdir())
    strange = [file.name for file in files if file.name not in (*MAX_BYTES, *DETACHED_NAMES)]
    strange += [file.name for file in files if file.is_symlink() or not file.is_file()]
    if strange:
        return f"it holds {strange[0]!r}, which is no part of a pack"
    try:
        manifest, digest = read_manifest(path)
    except PackError as error:
        return str(error)
    if digest != path.name:
        return f"its manifest is that of {digest[:16]}..."
    return Removed(digest, manifest.version, sum(file.stat().st_size for file in files))


def _remove(workspace: Workspace, planned: PruneReport) -> tuple[int, int]:
    """Rules 4 and 5; how many files of exemplars went, and their bytes."""
    packs = workspace.packs_path
    wanted = _lineage(packs, (*planned.kept, *planned.left))
    for one in planned.removed:
        if one.digest in wanted:
            keep_manifest(one.digest, packs)
        remove_folder(packs / one.digest)
    for file in (packs / LINEAGE_FOLDER).glob("*.json"):
        if file.stem not in wanted:
            with storage_errors(file):
                file.unlink(missing_ok=True)
    before = _size(workspace.replay_path)
    with storage_errors(workspace.replay_path):
        count = ReplayStore(workspace.replay_path).collect(folder.name for folder in workspace.list_packs())
    return count, before - _size(workspace.replay_path)


def _lineage(packs: Path, staying: tuple[str, ...]) -> set[str]:
    """Digests of all that the packs that stay come from."""
    found: set[str] = set()
    for digest in staying:
        manifest = known_manifest(digest, packs)
        found |= frozenset() if manifest is None else ancestors(manifest, packs)
    return found


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
