"""The inbox: what devices uploaded, verified one by one before an admin uses it.

Rules for one upload, in this order; whatever refuses, this upload is left out by name and the others go on:

1. It lies under the id of a key that is enrolled and not revoked.
2. Its description is there (else it is half uploaded, and waited for), small, and signed by that key.
3. It speaks of the place where it lies: of this key and this pack.
4. It is none that was collected before, and none older than one that was (a replay).
5. It is no larger than the caller takes, and for the caller's bundle, if one is named.
6. Every piece is there with its size, and together they are the archive that was described.
7. The archive opens (``packs.archive``), is of that pack, and is signed by that device's key; of its signatures, that
   one alone is kept.
8. Shared exemplars are what was described. Nothing says whether they are good: that is for whoever uses them.

Then its pack appears in ``out/<digest>``, shared exemplars in ``out/exemplars/<digest>``, and the ledger
``out/collected.json`` remembers it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mmcl_edge.errors import InputError, IntegrityError, MissingObjectError, OversizedObjectError, PackError
from mmcl_edge.fileio import (
    STAGING_PREFIX,
    atomic_folder,
    canonical_json,
    read_bounded,
    sha256_bytes,
    storage_errors,
    sweep_staging,
    write_atomic,
)
from mmcl_edge.fleet.layout import INBOX, Device, Devices, Upload, dump, inbox_path
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.uploads import (
    MAX_ENVELOPE_BYTES,
    UPLOAD_NAME,
    SharedIndex,
    check_pieces,
    is_piece,
    unpack_exemplars,
    unseal,
)
from mmcl_edge.packs.archive import ParentOf, open_archive, read_archive
from mmcl_edge.packs.manifest import Digest
from mmcl_edge.types import FrozenModel

LEDGER_NAME = "collected.json"
EXEMPLARS_FOLDER = "exemplars"
MAX_BYTES = 256 << 20
"""Of one upload, unless the caller takes more."""
MAX_LEDGER_BYTES = 256 << 20
LEDGER_EVERY = 100
"""Uploads after which the ledger is written; what a cut loses of it is verified again by the next call."""

_HEX = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{6,64}")

Status = Literal["new", "collected", "half-uploaded", "refused"]
OnProgress = Callable[[str, int, int], None]


class Collected(FrozenModel):
    """One line of the ledger."""

    pack: Digest
    counter: int = Field(ge=0)
    version: int = Field(ge=1)


class Ledger(FrozenModel):
    """What was collected from each device (key id), in order: contents of ``collected.json``."""

    schema_version: Literal[1] = 1
    devices: dict[Digest, tuple[Collected, ...]] = Field({}, description="Uploads by the id of the key.")

    def holds(self, keyid: str, pack: str, counter: int) -> bool:
        """Whether this very upload was collected before."""
        return any((one.pack, one.counter) == (pack, counter) for one in self.devices.get(keyid, ()))

    def newest(self, keyid: str) -> int:
        """Number of the newest upload collected from a device; 0 before the first."""
        return max((one.counter for one in self.devices.get(keyid, ())), default=0)

    def after(self, uploads: Iterable[Upload]) -> Ledger:
        """The ledger after ``uploads`` were collected, in that order."""
        lines = {keyid: dict.fromkeys(collected) for keyid, collected in self.devices.items()}
        for upload in uploads:
            own = lines.setdefault(upload.keyid, {})
            line = Collected(pack=upload.pack, counter=upload.counter, version=upload.version)
            own.pop(line, None)
            own[line] = None
        return Ledger(devices={keyid: tuple(own) for keyid, own in lines.items()})


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
    exemplars: int = 0
    files: tuple[str, ...] = ()
    description_sha256: str | None = None


@dataclass(frozen=True)
class Listing:
    """What the inbox holds.

    Attributes:
        entries: by device and pack.
        strangers: paths of objects that are no part of an upload.
    """

    entries: tuple[Entry, ...]
    strangers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Case:
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


def collect(
    store: Store,
    devices: Devices,
    out: Path,
    *,
    parent_of: ParentOf = lambda digest: None,
    bundle: str | None = None,
    max_bytes: int = MAX_BYTES,
    executor: Executor | None = None,
    on_progress: OnProgress = lambda text, done, total: None,
) -> tuple[Finding, ...]:
    """Verify every upload of the inbox and bring the new ones to ``out`` (the rules stand in the module docstring).

    Args:
        store: of the fleet.
        devices: enrolled and revoked, as the fleet's signed metadata says.
        out: folder of packs by digest; made if it is not there.
        parent_of: where the parent of a delta is, which may fetch it; ``out`` is looked at first.
        bundle: its digest, or the beginning (at least 6 letters); packs for another are refused.
        max_bytes: largest archive, and largest blob of exemplars, that is taken.
        executor: verifies several at once, in threads; the ledger is written by the caller's thread.
        on_progress: told after every upload.

    Raises:
        InputError: ``bundle`` is no beginning of a digest.
        StoreError: the store does not answer, or cannot be listed.
        IntegrityError: the ledger is damaged.
        StorageError: ``out`` cannot be written.
    """
    if bundle is not None and _PREFIX.fullmatch(bundle) is None:
        raise InputError(
            f"The bundle should be named by the beginning of its digest, 6 to 64 of the letters 0-9 and a-f, but is "
            f"{bundle!r}; 'mmcl-edge pack inspect' shows it."
        )
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    sweep_staging(out)
    ledger = known = read_ledger(out)  # an older upload of the same call is no replay
    entries = list_inbox(store).entries
    enrolled = {device.keyid: device for device in devices.devices}
    gone = {device.keyid for device in devices.revoked}

    def case(entry: Entry) -> _Case:
        return _Case(
            store=store,
            entry=entry,
            device=enrolled.get(entry.keyid),
            revoked=entry.keyid in gone,
            ledger=known,
            out=out,
            parent_of=parent_of,
            bundle=bundle,
            max_bytes=max_bytes,
        )

    cases = map(case, entries)
    findings: list[Finding] = []
    fresh: list[Upload] = []
    results: Iterable[tuple[Finding, Upload | None]] = map(_verified, cases)
    if executor is not None:
        results = executor.map(_verified, cases)
    for finding, upload in results:
        if upload is not None:
            fresh.append(upload)
        findings.append(finding)
        on_progress(f"{finding.device or finding.keyid[:16]}: {finding.status}", len(findings), len(entries))
        if len(fresh) == LEDGER_EVERY or (fresh and len(findings) == len(entries)):
            ledger = ledger.after(fresh)
            write_ledger(out, ledger)
            fresh.clear()
    return tuple(findings)


def read_ledger(out: Path) -> Ledger:
    """What was collected into ``out`` before.

    Raises:
        IntegrityError: the ledger is damaged.
    """
    path = out / LEDGER_NAME
    if not path.is_file():
        return Ledger()
    try:
        return Ledger.model_validate_json(read_bounded(path, MAX_LEDGER_BYTES))
    except ValidationError as error:
        raise IntegrityError(
            f"{path} should say what was collected before, but is damaged; restore it, or collect into another folder, "
            "where everything counts as new."
        ) from error


def write_ledger(out: Path, ledger: Ledger) -> None:
    """Replace the ledger.

    Raises:
        StorageError: it cannot be written; the one before stays.
    """
    write_atomic(out / LEDGER_NAME, canonical_json(ledger.model_dump(mode="json")))


def remove(store: Store, finding: Finding) -> int:
    """Remove an upload from the inbox as it was when it was verified, its description first.

    What the device has added or described anew since then stays: it was not verified. So does an upload whose
    description was not read: its key is not enrolled, or it is half uploaded.

    Returns:
        How many objects went; 0 where the description is not the one that was read.

    Raises:
        StoreError: the store cannot be read or written.
    """
    if finding.description_sha256 is None:
        return 0
    path = inbox_path(finding.keyid, finding.pack, UPLOAD_NAME)
    try:
        data = store.get(path, MAX_ENVELOPE_BYTES)
    except (MissingObjectError, OversizedObjectError):
        return 0
    if sha256_bytes(data) != finding.description_sha256:
        return 0
    for name in sorted(finding.files, key=lambda name: (name != UPLOAD_NAME, name)):
        store.delete(inbox_path(finding.keyid, finding.pack, name))
    return len(finding.files)


def _verified(case: _Case) -> tuple[Finding, Upload | None]:
    """The finding, and the upload where it was collected now."""
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


def _description(case: _Case, device: Device, data: bytes) -> Upload:
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


def _taken(case: _Case, device: Device, upload: Upload, seen: Finding) -> Finding:
    """Rules 6 to 8."""
    archive = _blob(case, upload.archive_sha256, upload.size_bytes, upload.chunk_bytes)
    shared = None
    if upload.exemplars_sha256 is not None:
        shared = unpack_exemplars(_blob(case, upload.exemplars_sha256, upload.exemplars_bytes, upload.chunk_bytes))
    with storage_errors(case.out), tempfile.TemporaryDirectory(dir=case.out, prefix=STAGING_PREFIX) as folder:
        file = Path(folder) / "archive"
        file.write_bytes(archive)
        manifest = read_archive(file, bundle_digest=upload.bundle, expected_digest=upload.pack).manifest
        if manifest.version != upload.version:
            raise PackError(
                f"It is described as version {upload.version}, but its pack is version {manifest.version}; "
                "it was left out."
            )
        open_archive(
            file,
            case.out,
            parent_of=lambda digest: _here(case.out, digest) or case.parent_of(digest),
            bundle_digest=upload.bundle,
            expected_digest=upload.pack,
            keys=[device.key.key],
            only_verified=True,
        )
    if shared is not None:
        _keep_exemplars(case.out / EXEMPLARS_FOLDER / upload.pack, *shared)
    count = 0 if shared is None else len(shared[0].exemplars)
    return replace(seen, status="new", version=upload.version, labels=manifest.label_names, exemplars=count)


def _keep_exemplars(folder: Path, index: SharedIndex, objects: Mapping[str, bytes]) -> None:
    with atomic_folder(folder, replace=True) as staging:
        (staging / "index.json").write_bytes(dump(index))
        for digest, content in objects.items():
            (staging / f"{digest}.safetensors").write_bytes(content)


def _blob(case: _Case, sha256: str, size_bytes: int, chunk_bytes: int) -> bytes:
    """The pieces of one blob, put together and checked; no more is read than was described."""
    entry = case.entry
    names = check_pieces(sha256, size_bytes, chunk_bytes, entry.files)
    data = b"".join(_pieces(case, names, chunk_bytes))
    if len(data) != size_bytes or sha256_bytes(data) != sha256:
        raise PackError(
            "Its pieces together are not what was described: one was changed; ask the device to push again."
        )
    return data


def _pieces(case: _Case, names: Iterable[str], chunk_bytes: int) -> Iterator[bytes]:
    for name in names:
        yield case.store.get(inbox_path(case.entry.keyid, case.entry.pack, name), chunk_bytes)


def _here(out: Path, digest: str) -> Path | None:
    folder = out / digest
    return folder if folder.is_dir() else None
