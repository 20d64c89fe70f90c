"""Verifying one upload of the inbox, and taking its pack in.

Rules for one upload, in this order; whatever refuses, the upload is left out, and the reason told:

1. It lies under the id of a key that is enrolled and not revoked.
2. Its description is there (else it is half uploaded, and waited for), small, and signed by that key.
3. It speaks of the place where it lies: of this key and this pack.
4. It is none that was collected before, and none older than one that was (a replay).
5. It is no larger than the caller takes, and for the caller's bundle, if one is named.
6. Every piece is there with its size, and together they are the archive that was described.
7. The archive opens (``packs.archive``), is of that pack, and is signed by that device's key; of its signatures, that
   one alone is kept.
8. A shared space that it says it holds is whole (``learners.comet.storage``).
9. Shared exemplars are what was described. Nothing says whether they are good: that is for whoever uses them.

Then its pack appears in ``out/<digest>``, shared exemplars in ``out/exemplars/<digest>``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmcl_edge.errors import IntegrityError, MissingObjectError, OversizedObjectError, PackError
from mmcl_edge.fileio import STAGING_PREFIX, atomic_folder, sha256_bytes, storage_errors
from mmcl_edge.fleet.inbox_listing import Entry
from mmcl_edge.fleet.layout import Device, Upload, dump, inbox_path
from mmcl_edge.fleet.ledger import Ledger
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.uploads import (
    MAX_ENVELOPE_BYTES,
    UPLOAD_NAME,
    SharedIndex,
    check_pieces,
    unpack_exemplars,
    unseal,
)
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.archive import ParentOf, open_archive, read_archive
from mmcl_edge.packs.manifest import CONFIG_NAME
from mmcl_edge.packs.spaces import SPACE_KEY, modalities_in

EXEMPLARS_FOLDER = "exemplars"

Status = Literal["new", "collected", "half-uploaded", "refused"]


@dataclass(frozen=True)
class Finding:
    """What became of one upload.

    Attributes:
        keyid: of the device.
        pack: its digest.
        status: ``new`` was collected now; ``collected`` before; ``half-uploaded`` is waited for.
        device: the device's name, if it is enrolled.
        reason: why it was refused.
        size_bytes: of its objects.
        version: of the pack, where it was read.
        labels: of the pack, where it was collected now.
        modalities: of the pack's shared space.
        exemplars: how many it shares.
        files: names of its objects, as they were listed.
        description_sha256: of ``upload.json``, where it was read.
    """

    keyid: str
    pack: str
    status: Status
    device: str | None = None
    reason: str | None = None
    size_bytes: int = 0
    version: int | None = None
    labels: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    exemplars: int = 0
    files: tuple[str, ...] = ()
    description_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that the verification of one upload needs."""

    store: Store
    entry: Entry
    device: Device | None
    revoked: bool
    ledger: Ledger
    out: Path
    parent_of: ParentOf
    bundle: str | None
    max_bytes: int


def verified(case: Case) -> tuple[Finding, Upload | None]:
    """The finding, and the upload where it was collected now (the rules stand in the module docstring).

    Raises:
        StoreError: the store does not answer.
        StorageError: ``case.out`` cannot be written.
    """
    entry = case.entry
    name = None if case.device is None else case.device.name
    seen = Finding(
        entry.keyid, entry.pack, "refused", name, size_bytes=entry.size_bytes, files=tuple(sorted(entry.files))
    )
    if case.device is None:
        return replace(seen, reason="its key was revoked" if case.revoked else "its key is not enrolled"), None
    if not entry.is_whole:
        return replace(seen, status="half-uploaded"), None
    try:
        data = case.store.get(inbox_path(entry.keyid, entry.pack, UPLOAD_NAME), MAX_ENVELOPE_BYTES)
        seen = replace(seen, description_sha256=sha256_bytes(data))
        upload = _description(case, case.device, data)
        if case.ledger.holds(upload.keyid, upload.pack, upload.counter):
            return replace(seen, status="collected", version=upload.version), None
        return _taken(case, case.device, upload, seen), upload
    except (IntegrityError, MissingObjectError, OversizedObjectError) as error:
        return replace(seen, reason=str(error)), None


def _description(case: Case, device: Device, data: bytes) -> Upload:
    """Rules 2 to 5."""
    entry = case.entry
    upload = unseal(data, device.key.key)
    if (upload.keyid, upload.pack) != (entry.keyid, entry.pack):
        raise PackError(
            f"It should be the pack {entry.pack[:16]}... of {entry.keyid[:16]}..., but is described as "
            f"{upload.pack[:16]}... of {upload.keyid[:16]}...: somebody moved it; it was left out."
        )
    newest = case.ledger.newest(entry.keyid)
    if upload.counter <= newest and not case.ledger.holds(upload.keyid, upload.pack, upload.counter):
        raise PackError(
            f"It is upload {upload.counter} of this device, but {newest} was collected before: an old one was put "
            "back (a replay), or the device lost its memory; it was left out."
        )
    for what, size in (("archive", upload.size_bytes), ("exemplars", upload.exemplars_bytes)):
        if size > case.max_bytes:
            raise PackError(f"Its {what} should have at most {case.max_bytes:,} bytes, but {size:,} are described.")
    if case.bundle is not None and not upload.bundle.startswith(case.bundle):
        raise PackError(
            f"It was made for the bundle {upload.bundle[:16]}..., but {case.bundle[:16]}... is collected here."
        )
    return upload


def _taken(case: Case, device: Device, upload: Upload, seen: Finding) -> Finding:
    """Rules 6 to 9."""
    archive = _blob(case, upload.archive_sha256, upload.size_bytes, upload.chunk_bytes)
    shared = None
    if upload.exemplars_sha256 is not None:
        shared = unpack_exemplars(_blob(case, upload.exemplars_sha256, upload.exemplars_bytes, upload.chunk_bytes))
    with storage_errors(case.out), tempfile.TemporaryDirectory(dir=case.out, prefix=STAGING_PREFIX) as folder:
        file = Path(folder) / "archive"
        file.write_bytes(archive)
        found = read_archive(file, bundle_digest=upload.bundle, expected_digest=upload.pack)
        manifest = found.manifest
        if manifest.version != upload.version:
            raise PackError(
                f"It is described as version {upload.version}, but its pack is version {manifest.version}; "
                "it was left out."
            )

        def opened(into: Path) -> Path:
            digest = open_archive(
                file,
                into,
                parent_of=lambda parent: _here(case.out, parent) or case.parent_of(parent),
                bundle_digest=upload.bundle,
                expected_digest=upload.pack,
                keys=[device.key.key],
                only_verified=True,
            )
            return into / digest

        if _tells_of_space(found.files[CONFIG_NAME]):
            _check_space(opened(Path(folder) / "packs"))
        opened(case.out)
    if shared is not None:
        _keep_exemplars(case.out / EXEMPLARS_FOLDER / upload.pack, *shared)
    count = 0 if shared is None else len(shared[0].exemplars)
    return replace(
        seen,
        status="new",
        version=upload.version,
        labels=manifest.label_names,
        modalities=modalities_in(case.out / upload.pack),
        exemplars=count,
    )


def _tells_of_space(config: bytes) -> bool:
    """Whether the configuration of a pack, not verified yet, tells of a shared space; where in doubt it does."""
    try:
        raw = json.loads(config)
        return SPACE_KEY in raw["module"] or SPACE_KEY in raw["method"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return True


def _check_space(folder: Path) -> None:
    from mmcl_edge.learners.comet.storage import space_of

    space_of(read_pack(folder))


def _keep_exemplars(folder: Path, index: SharedIndex, objects: Mapping[str, bytes]) -> None:
    with atomic_folder(folder, replace=True) as staging:
        (staging / "index.json").write_bytes(dump(index))
        for digest, content in objects.items():
            (staging / f"{digest}.safetensors").write_bytes(content)


def _blob(case: Case, sha256: str, size_bytes: int, chunk_bytes: int) -> bytes:
    """The pieces of one blob, put together and checked; no more is read than was described."""
    entry = case.entry
    names = check_pieces(sha256, size_bytes, chunk_bytes, entry.files)
    data = b"".join(_pieces(case, names, chunk_bytes))
    if len(data) != size_bytes or sha256_bytes(data) != sha256:
        raise PackError(
            "Its pieces together are not what was described: one was changed; ask the device to push again."
        )
    return data


def _pieces(case: Case, names: Iterable[str], chunk_bytes: int) -> Iterator[bytes]:
    for name in names:
        yield case.store.get(inbox_path(case.entry.keyid, case.entry.pack, name), chunk_bytes)


def _here(out: Path, digest: str) -> Path | None:
    folder = out / digest
    return folder if folder.is_dir() else None
