"""Bringing verified folders into a workspace: copy to staging, verify the copy, rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mmcl_edge.bundle import MANIFEST_NAME, Bundle
from mmcl_edge.errors import BundleError, IntegrityError
from mmcl_edge.fileio import atomic_folder, fsync_folder, storage_errors
from mmcl_edge.packs import Pack, holds_pack, read_pack


def bring_bundle(source: Bundle, target: Path, *, move: bool = False) -> None:
    """Make ``target`` a verified copy of ``source``; nothing happens if it is one already.

    Args:
        source: an opened bundle.
        target: a folder named by the bundle's digest.
        move: rename the folder instead of copying where both are on one file system.

    Raises:
        BundleError: the copy is not what was read.
        StorageError: no space, read-only, no permission.
    """
    if _is_bundle(target, source.digest):
        return
    if move and not target.exists() and source.path.stat().st_dev == target.parent.stat().st_dev:
        _rename(source.path.resolve(), target)
        return
    listed = (file.path for file in source.manifest.files())
    with atomic_folder(target, replace=True) as staging:
        _copy(source.path, staging, (MANIFEST_NAME, *listed))
        Bundle.open(staging, expected_digest=source.digest)


def family_of(folder: Path) -> str:
    """What packs of the bundle in ``folder`` are bound to; its files are not verified.

    Raises:
        BundleError: the manifest is missing or broken.
    """
    try:
        return Bundle.unverified(folder).family
    except BundleError:
        raise
    except IntegrityError as error:
        raise BundleError(str(error)) from error


def bring_pack(source: Pack, target: Path) -> None:
    """Make ``target`` a verified copy of ``source``; nothing happens if it is one already.

    Raises:
        PackError: the copy is not what was read.
        StorageError: no space, read-only, no permission.
    """
    if holds_pack(target, source.digest):
        return
    with atomic_folder(target, replace=True) as staging:
        _copy(source.path, staging, os.listdir(source.path))
        read_pack(staging, expected_digest=source.digest)


def _rename(source: Path, target: Path) -> None:
    with storage_errors(target):
        os.replace(source, target)
        fsync_folder(target.parent)


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _is_bundle(path: Path, digest: str) -> bool:
    with suppress(IntegrityError):
        return Bundle.open(path, expected_digest=digest).digest == digest
    return False
