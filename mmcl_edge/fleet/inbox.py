"""The inbox: what devices uploaded, verified one by one before an admin uses it.

Rules of a collection, in this order:

1. Everything that lies in the inbox is listed (``fleet.inbox_listing``).
2. Each upload is verified on its own (``fleet.inbox_verify``): one that is refused is left out by name, and the others
   go on. An older upload of the same collection is no replay.
3. The pack of a new one appears in ``out/<digest>``, shared exemplars in ``out/exemplars/<digest>``, and the ledger
   ``out/collected.json`` (``fleet.ledger``) remembers it.
4. What is removed from the inbox afterwards is what was verified.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path

from mmcl_edge.errors import InputError, MissingObjectError, OversizedObjectError
from mmcl_edge.fileio import sha256_bytes, storage_errors, sweep_staging
from mmcl_edge.fleet.inbox_listing import Entry, Listing, list_inbox
from mmcl_edge.fleet.inbox_verify import Case, Finding, verified
from mmcl_edge.fleet.layout import Devices, Upload, inbox_path
from mmcl_edge.fleet.ledger import read_ledger, write_ledger
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.uploads import MAX_ENVELOPE_BYTES, UPLOAD_NAME
from mmcl_edge.packs.archive import ParentOf

__all__ = ["MAX_BYTES", "Entry", "Finding", "Listing", "collect", "list_inbox", "read_ledger", "remove"]

MAX_BYTES = 256 << 20
"""Of one upload, unless the caller takes more."""
LEDGER_EVERY = 100
"""Uploads after which the ledger is written; what a cut loses of it is verified again by the next call."""

_PREFIX = re.compile(r"[0-9a-f]{6,64}")

OnProgress = Callable[[str, int, int], None]


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

    def case(entry: Entry) -> Case:
        return Case(
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
    results: Iterable[tuple[Finding, Upload | None]] = map(verified, cases)
    if executor is not None:
        results = executor.map(verified, cases)
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
