"""How a fleet stands: who signs it, until when it holds, what its channels name, what waits in its inbox."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from mmcl_edge.errors import StoreError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.layout import BIN_PREFIX, INBOX, MAX_METADATA_BYTES, Release, metadata_path
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.roles import KEY_GROUPS
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.view import View

UPLOAD_NAME = "upload.json"


@dataclass(frozen=True)
class KeyGroup:
    """Who signs: ids of the keys, and how many must."""

    keyids: tuple[str, ...]
    threshold: int


@dataclass(frozen=True)
class Inbox:
    """What devices have uploaded and nobody has removed: whole uploads, and bytes in all."""

    uploads: int
    size_bytes: int


@dataclass(frozen=True)
class FleetStatus:
    """See the fields.

    Attributes:
        url: of the store, without secrets.
        fingerprint: sha256 of the first root metadata: what devices are told when they join.
        versions: of root, snapshot and timestamp.
        expires: role to its end; of the bins, the first to end.
        expired: roles whose end is past.
        complete: whether the newest change has its timestamp.
        keys: ``root``, ``targets`` and ``online``.
        releases: of every channel.
        archives: how many archives are signed.
        bins: how many bins they are spread over.
        require_signatures: whether released packs must be signed by a release key.
        devices: names of enrolled devices.
        revoked: how many device keys were revoked.
        inbox: ``None`` where the store cannot be listed.
    """

    url: str
    fingerprint: str
    versions: dict[str, int]
    expires: dict[str, datetime]
    expired: tuple[str, ...]
    complete: bool
    keys: dict[str, KeyGroup]
    releases: tuple[Release, ...]
    archives: int
    bins: int
    require_signatures: bool
    devices: tuple[str, ...]
    revoked: int
    inbox: Inbox | None


def status(repository: Repository) -> FleetStatus:
    """How the fleet stands; reads every role.

    Raises:
        TrustError, StoreError: as ``Repository.view``.
    """
    view = repository.view()
    expires = _expires(view)
    settings, devices = view.settings(), view.devices()
    now = repository.clock()
    return FleetStatus(
        url=repository.store.url,
        fingerprint=sha256_bytes(repository.store.get(metadata_path(Root.type, 1), MAX_METADATA_BYTES)),
        versions={
            Root.type: view.root.signed.version,
            Snapshot.type: view.snapshot_version,
            Timestamp.type: view.timestamp.signed.version if view.timestamp is not None else 0,
        },
        expires=expires,
        expired=tuple(role for role, end in expires.items() if end <= now),
        complete=view.is_complete,
        keys={group: _group(view.root.signed, roles[0]) for group, roles in KEY_GROUPS.items()},
        releases=tuple(release for name in view.channels() if (release := view.release(name)) is not None),
        archives=sum(len(view.role(name).signed.targets) for name in view.bins()),
        bins=settings.bins,
        require_signatures=settings.require_signatures,
        devices=tuple(device.name for device in devices.devices),
        revoked=len(devices.revoked),
        inbox=_inbox(repository.store),
    )


def _expires(view: View) -> dict[str, datetime]:
    ends = {Root.type: view.root.signed.expires}
    for name in view.delegated(Targets.type):
        group = BIN_PREFIX if name.startswith(f"{BIN_PREFIX}-") else name
        end = view.role(name).signed.expires
        ends[group] = min(end, ends.get(group, end))
    if view.snapshot is not None:
        ends[Snapshot.type] = view.snapshot.signed.expires
    if view.timestamp is not None:
        ends[Timestamp.type] = view.timestamp.signed.expires
    return ends


def _group(root: Root, role: str) -> KeyGroup:
    return KeyGroup(tuple(root.roles[role].keyids), root.roles[role].threshold)


def _inbox(store: Store) -> Inbox | None:
    uploads = size = 0
    try:
        for entry in store.list(INBOX):
            uploads += entry.path.endswith(f"/{UPLOAD_NAME}")
            size += entry.size_bytes
    except StoreError:
        return None
    return Inbox(uploads, size)
