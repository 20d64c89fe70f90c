"""Push: a device uploads one of its packs to the fleet's inbox. The same call again goes on where the last one ended.

Rules, in this order:

1. The workspace is locked while the upload is prepared, not while it is sent; one push at a time is sent.
2. The pack is verified, copied, and the copy signed with the device's key.
3. Its archive is the smaller of two: whole, or what differs from the newest release that it was learned on top of.
4. Nothing of the training data is in it. Exemplars of classes go along only where the caller says so; held-out pairs
   of modalities never do: they measure what comes to this device, and nobody else needs them.
5. Every upload has a number, one above the last. The newest keeps its own when it is sent again, so that it is the same
   to the byte; an older one gets a new number: the inbox takes none that is older than what it collected.
6. It is cut into pieces, each written where nothing is, under a cap of bandwidth; a piece that is there with the right
   size is skipped, unless the caller wants all of it written again.
7. The signed description is written last: without it nobody looks at the pieces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from mmcl_edge.errors import (
    InputError,
    IntegrityError,
    LockedError,
    MissingObjectError,
    OversizedObjectError,
    StoreError,
)
from mmcl_edge.fileio import canonical_json, read_bounded, sha256_bytes, storage_errors, write_atomic
from mmcl_edge.fleet.joining import FOLDER, OpenStore, absolute
from mmcl_edge.fleet.layout import MAX_ARCHIVE_BYTES, Upload, inbox_path
from mmcl_edge.fleet.staging import staging_folder
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.sync_state import StateRecord
from mmcl_edge.fleet.throttle import TokenBucket
from mmcl_edge.fleet.uploads import (
    CHUNK_BYTES,
    UPLOAD_NAME,
    SharedExemplar,
    SharedIndex,
    pack_exemplars,
    pieces,
    seal,
)
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.packs.lineage import ancestors
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.packs.signing import sign_pack
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import FrozenModel

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

RECORD_NAME = "uploads.json"
LOCK_NAME = ".lock-push"
_MAX_BYTES = 1 << 20

OnProgress = Callable[[int, int], None]
"""Bytes that are in the store, and all bytes."""


class Sent(FrozenModel):
    """One upload of this device, whole or begun."""

    pack: Digest
    archive_sha256: Digest
    exemplars_sha256: Digest | None = None
    counter: int = Field(ge=1)
    done: bool = Field(False, description="Not used; records that were written before have it.")


class SentRecord(FrozenModel):
    """Contents of ``trust/uploads.json``."""

    schema_version: Literal[1] = 1
    counter: int = Field(0, ge=0, description="Of the newest upload.")
    sent: tuple[Sent, ...] = Field((), description="The newest upload comes last.")


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What a push did.

    Attributes:
        pack: digest of the pack.
        keyid: of the device.
        url: of the store, without secrets.
        size_bytes: of archive and exemplars.
        sent_bytes: of the pieces written by this call; the others were there.
        delta_from: the pack that the archive is a delta from; ``None``: it is whole.
        exemplars: how many training samples were shared.
        repeated: the whole upload was there.
    """

    pack: str
    keyid: str
    url: str
    size_bytes: int
    sent_bytes: int
    delta_from: str | None
    exemplars: int
    repeated: bool


@dataclass(frozen=True)
class _Prepared:
    upload: Upload
    archive: bytes
    exemplars: bytes
    shared: int


def push(
    workspace: Workspace,
    signer: Signer,
    *,
    pack: str | Path = "current",
    url: str | None = None,
    share_exemplars: bool = False,
    max_kbps: float | None = None,
    again: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    on_progress: OnProgress = lambda done, total: None,
    open_store: OpenStore = Store.open,
    bucket: TokenBucket | None = None,
) -> PushReport:
    """Upload a pack (the rules stand in the module docstring).

    Args:
        workspace: of the device.
        signer: signs with the device's key.
        pack: the pack: ``current``, the beginning of a digest, or a folder.
        url: of the store; by default that of the fleet that the device has joined.
        share_exemplars: upload the training and held-out samples of classes that are kept, too.
        max_kbps: cap of bandwidth in kilobits a second.
        again: write every piece anew, also those that are there.
        chunk_bytes: size of a piece.
        on_progress: told after every piece.
        open_store: opens a store by its URL.
        bucket: in the place of the one that follows from ``max_kbps``.

    Raises:
        LockedError: another process works in the workspace, or pushes.
        InputError: no URL is known.
        PackError: the pack is broken or made for another bundle.
        StoreError: the store does not answer, or cannot be written.
        StorageError: a file cannot be written.
    """
    with _one_at_a_time(workspace.trust_path):
        with workspace.lock():
            store = open_store(_url(workspace, url))
            opened = read_pack(workspace.resolve_pack(pack), bundle_digest=workspace.bundle_family())
            prepared = _prepared(workspace, opened, signer, share_exemplars=share_exemplars, chunk_bytes=chunk_bytes)
        rate = None if max_kbps is None else max_kbps * 1000 / 8
        throttle = bucket or TokenBucket(rate, burst_bytes=chunk_bytes)
        return _sent(store, prepared, seal(prepared.upload, signer), throttle, on_progress, again=again)


def newest_upload(trust: Path) -> Sent | None:
    """The newest upload of the device whose folder ``trust`` is, whole or begun; ``None`` before the first.

    Raises:
        IntegrityError: the record is damaged.
    """
    sent = _record(trust / RECORD_NAME).sent
    return sent[-1] if sent else None


def _url(workspace: Workspace, url: str | None) -> str:
    if url is not None:
        return absolute(url)
    state = StateRecord(workspace.trust_path / FOLDER).read()
    if state is None:
        raise InputError(
            "This device has not joined a fleet, so it does not know where to push; run 'mmcl-edge sync URL' first, "
            "or name the store with --to URL."
        )
    return state.url


def _prepared(
    workspace: Workspace, pack: Pack, signer: Signer, *, share_exemplars: bool, chunk_bytes: int
) -> _Prepared:
    """Rules 2 to 5."""
    with staging_folder(workspace) as folder:
        copy = folder / pack.digest
        with storage_errors(copy):
            copy.mkdir()
            for file in pack.path.iterdir():
                shutil.copyfile(file, copy / file.name)
        sign_pack(copy, signer)
        archive, parent = _smaller(workspace, pack, copy, folder)
    index, exemplars = _exemplars(workspace, pack.digest) if share_exemplars else (SharedIndex(), b"")
    shared = sha256_bytes(exemplars) if exemplars else None
    counter = _numbered(workspace, pack.digest, sha256_bytes(archive), shared)
    upload = Upload(
        keyid=signer.public_key.keyid,
        pack=pack.digest,
        version=pack.manifest.version,
        bundle=pack.manifest.bundle_digest,
        archive_sha256=sha256_bytes(archive),
        size_bytes=len(archive),
        chunk_bytes=chunk_bytes,
        parent=parent,
        counter=counter,
        exemplars_sha256=shared,
        exemplars_bytes=len(exemplars),
    )
    return _Prepared(upload, archive, exemplars, len(index.exemplars))


def _smaller(workspace: Workspace, pack: Pack, copy: Path, folder: Path) -> tuple[bytes, str | None]:
    """Rule 3: the bytes of the archive, and the pack that it is a delta from."""
    write_archive(copy, folder / "whole")
    whole = read_bounded(folder / "whole", MAX_ARCHIVE_BYTES)
    state = StateRecord(workspace.trust_path / FOLDER).read()
    came_from = ancestors(pack.manifest, workspace.packs_path)
    releases = [one.pack for one in state.applied] if state is not None else []
    base = next((one for one in reversed(releases) if one in came_from and one != pack.digest), None)
    if base is None or not (workspace.packs_path / base).is_dir():
        return whole, None
    write_archive(copy, folder / "delta", parent=workspace.packs_path / base)
    delta = read_bounded(folder / "delta", MAX_ARCHIVE_BYTES)
    return (delta, base) if len(delta) < len(whole) else (whole, None)


def _exemplars(workspace: Workspace, digest: str) -> tuple[SharedIndex, bytes]:
    found, objects = [], {}
    for side, label, path in ReplayStore(workspace.replay_path).objects_of(digest):
        found.append(SharedExemplar(side=side, label=label, object=path.stem))
        objects[path.stem] = read_bounded(path, MAX_ARCHIVE_BYTES)
    index = SharedIndex(exemplars=tuple(found))
    return index, pack_exemplars(index, objects) if found else b""


def _numbered(workspace: Workspace, digest: str, archive: str, exemplars: str | None) -> int:
    """Rule 5: the number of this upload, remembered before anything of it is sent."""
    path = workspace.trust_path / RECORD_NAME
    record = _record(path)
    newest = next((one for one in record.sent if one.counter == record.counter), None)
    if newest is not None and (newest.pack, newest.archive_sha256, newest.exemplars_sha256) == (
        digest,
        archive,
        exemplars,
    ):
        return newest.counter
    new = Sent(pack=digest, archive_sha256=archive, exemplars_sha256=exemplars, counter=record.counter + 1)
    _write_record(path, SentRecord(counter=new.counter, sent=(new,)))
    return new.counter


def _write_record(path: Path, record: SentRecord) -> None:
    write_atomic(path, canonical_json(record.model_dump(mode="json")), mode=0o600)


def _record(path: Path) -> SentRecord:
    if not path.is_file():
        return SentRecord()
    try:
        return SentRecord.model_validate_json(read_bounded(path, _MAX_BYTES))
    except ValidationError as error:
        raise IntegrityError(
            f"{path} should number the uploads of this device, but is damaged; make a new key for the device "
            "(mmcl-edge keys rotate device), have it enrolled, and remove the file."
        ) from error


def _sent(
    store: Store, prepared: _Prepared, sealed: bytes, throttle: TokenBucket, tell: OnProgress, *, again: bool
) -> PushReport:
    """Rules 6 and 7."""
    upload = prepared.upload
    path = inbox_path(upload.keyid, upload.pack, UPLOAD_NAME)
    repeated = not again and _holds(store, path, sealed)
    there = {} if again or repeated else _there(store, inbox_path(upload.keyid, upload.pack))
    total, done, sent = len(prepared.archive) + len(prepared.exemplars), 0, 0
    for name, piece in () if repeated else _all_pieces(prepared):
        if there.get(name) != len(piece):
            throttle.take(len(piece))
            place = inbox_path(upload.keyid, upload.pack, name)
            if again or name in there or not store.create(place, piece):
                store.put(place, piece)
            sent += len(piece)
        done += len(piece)
        tell(done, total)
    if not repeated:
        store.flush()
        store.put(path, sealed)
        store.flush()
    return PushReport(
        pack=upload.pack,
        keyid=upload.keyid,
        url=store.url,
        size_bytes=total,
        sent_bytes=sent,
        delta_from=upload.parent,
        exemplars=prepared.shared,
        repeated=repeated,
    )


def _all_pieces(prepared: _Prepared) -> Iterator[tuple[str, bytes]]:
    yield from pieces(prepared.archive, prepared.upload.chunk_bytes)
    yield from pieces(prepared.exemplars, prepared.upload.chunk_bytes)


def _there(store: Store, folder: str) -> dict[str, int]:
    """Names and sizes in bytes of what is in a folder of the store; nothing where the store cannot be listed."""
    try:
        return {entry.path.rpartition("/")[2]: entry.size_bytes for entry in store.list(folder)}
    except StoreError:
        return {}


def _holds(store: Store, path: str, data: bytes) -> bool:
    try:
        return store.get(path, len(data)) == data
    except (MissingObjectError, OversizedObjectError):
        return False


@contextmanager
def _one_at_a_time(trust: Path) -> Iterator[None]:
    lock = FileLock(trust / LOCK_NAME)
    try:
        with storage_errors(trust):
            trust.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout as error:
        raise LockedError(
            "Another process of this device is pushing; wait until it ends and run the same command again."
        ) from error
    try:
        yield
    finally:
        lock.release()
