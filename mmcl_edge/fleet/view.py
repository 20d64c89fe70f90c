"""An admin's view of a fleet: its metadata, verified from the root that this admin trusts and read as far as asked.

Rules, in order; expired metadata is read all the same, for renewing it is an admin's work:

1. From the trusted root on, each next root is signed by the threshold of the one before and by its own.
2. The timestamp is signed by the online keys, and not older than the one this admin saw last.
3. The snapshot is the one that the timestamp names, to the byte. Where a later one lies there (an admin was cut short
   before the timestamp, the last thing written), that one counts: it is whole, or refused.
4. Every role has the version that the snapshot says, and is signed by the keys that its delegator names.
5. Every document has the hash that its role says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.signer import Key
from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from mmcl_edge.errors import FleetError, MissingObjectError, TrustError
from mmcl_edge.fleet.layout import (
    CHANNELS_FOLDER,
    CHANNELS_ROLE,
    DEVICES_ROLE,
    DEVICES_TARGET,
    MAX_DEVICES_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_METADATA_BYTES,
    PACKS_ROLE,
    SETTINGS_TARGET,
    Devices,
    Release,
    Settings,
    channel_target,
    metadata_path,
    parse,
    target_path,
)
from mmcl_edge.fleet.parallel import in_parallel
from mmcl_edge.fleet.roles import SECTIONS, bins_of, delegator, keys_of
from mmcl_edge.fleet.store import Store, Version
from mmcl_edge.types import FrozenModel

MAX_ROOTS = 1024


class Memory(FrozenModel):
    """What an admin remembers of a fleet, so that its store cannot lie about the past.

    Attributes:
        root: text of the newest trusted root metadata.
        timestamp: version of the newest timestamp seen.
        snapshot: version of the newest snapshot seen.
    """

    root: str
    timestamp: int = 0
    snapshot: int = 0


@dataclass
class View:
    """The fleet as it is in ``store``. Use ``load``; roles and documents are read when they are asked for."""

    store: Store
    root: Metadata[Root]
    timestamp: Metadata[Timestamp] | None
    snapshot: Metadata[Snapshot] | None
    snapshot_data: bytes = b""
    _roles: dict[str, Metadata[Targets]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the timestamp names the snapshot that counts."""
        named = self.timestamp.signed.snapshot_meta.version if self.timestamp is not None else 0
        return named == self.snapshot_version

    @property
    def snapshot_version(self) -> int:
        """The version of the snapshot that counts; 0 before the first."""
        return self.snapshot.signed.version if self.snapshot is not None else 0

    @property
    def meta(self) -> Mapping[str, MetaFile]:
        """What the snapshot says: file name of each role, to its version."""
        return self.snapshot.signed.meta if self.snapshot is not None else {}

    def memory(self) -> Memory:
        """What to remember of this view."""
        timestamp = self.timestamp.signed.version if self.timestamp is not None else 0
        return Memory(root=self.root.to_bytes().decode(), timestamp=timestamp, snapshot=self.snapshot_version)

    def keys(self, group: str) -> tuple[Key, ...]:
        """The keys of ``root``, ``targets`` or ``online``."""
        return keys_of(self.root.signed, group)

    def version(self, role: str) -> int:
        """The version of ``role`` that counts; 0 before the first."""
        meta = self.meta.get(f"{role}.json")
        return meta.version if meta is not None else 0

    def role(self, name: str) -> Metadata[Targets]:
        """Verified metadata of ``targets`` or of a role delegated by it.

        Raises:
            TrustError: it is not what the fleet's keys signed.
            StoreError: the store cannot be read.
        """
        if name not in self._roles:
            self._roles[name] = self._load_role(name)
        return self._roles[name]

    def edited(self, name: str) -> Targets:
        """A copy of what ``name`` says, to be changed and committed."""
        return Targets.from_dict(self.role(name).signed.to_dict())

    def settings(self) -> Settings:
        """What the whole fleet goes by."""
        return parse(Settings, self._document(Targets.type, SETTINGS_TARGET, MAX_DOCUMENT_BYTES), SETTINGS_TARGET)

    def channels(self) -> tuple[str, ...]:
        """Names of all channels, in order."""
        found = self.role(CHANNELS_ROLE).signed.targets
        return tuple(sorted(path.removeprefix(f"{CHANNELS_FOLDER}/").removesuffix(".json") for path in found))

    def release(self, channel: str) -> Release | None:
        """What ``channel`` names; ``None`` where there is no such channel.

        Raises:
            TrustError: the document is not what was signed, or speaks of another channel.
        """
        path = channel_target(channel)
        if path not in self.role(CHANNELS_ROLE).signed.targets:
            return None
        release = parse(Release, self._document(CHANNELS_ROLE, path, MAX_DOCUMENT_BYTES), path)
        if release.channel != channel:
            raise TrustError(
                f"{path} should speak of {channel!r}, but speaks of {release.channel!r}; have it signed anew."
            )
        return release

    def devices(self) -> Devices:
        """Every enrolled and every revoked device."""
        return parse(Devices, self._document(DEVICES_ROLE, DEVICES_TARGET, MAX_DEVICES_BYTES), DEVICES_TARGET)

    def bin_of(self, target: str) -> str:
        """The bin that speaks of an archive."""
        return bins_of(self.role(PACKS_ROLE).signed).get_role_for_target(target)

    def bins(self) -> tuple[str, ...]:
        """Names of all bins."""
        return tuple(bins_of(self.role(PACKS_ROLE).signed).get_roles())

    def delegated(self, *others: str) -> tuple[str, ...]:
        """Names of ``others`` and of every delegated role, all of them read (by threads) and verified.

        Raises:
            TrustError, StoreError: as ``role``.
        """
        sections = tuple(SECTIONS)
        for name in (Targets.type, *sections):
            self.role(name)
        bins = self.bins()
        in_parallel(self.role, bins)
        return (*others, *sections, *bins)

    def archive(self, target: str) -> TargetFile | None:
        """Size and hash of an archive; ``None`` where the fleet has none of that name."""
        return self.role(self.bin_of(target)).signed.targets.get(target)

    def fetch(self, target: str, info: TargetFile) -> bytes:
        """The content of a target, exactly as its role describes it.

        Raises:
            TrustError: other bytes than those.
            StoreError: the store cannot be read, or has lost it.
        """
        data = self.store.get(target_path(target, info.hashes["sha256"]), info.length)
        try:
            info.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise TrustError(
                f"{target} in {self.store.url} is not what was signed; see who can write there."
            ) from error
        return data

    def _document(self, role: str, target: str, max_bytes: int) -> bytes:
        info = self.role(role).signed.targets.get(target)
        if info is None:
            raise FleetError(
                f"The fleet at {self.store.url} should have {target}, but has none; it is of another layout."
            )
        if info.length > max_bytes:
            raise TrustError(f"{target} is said to have {info.length:,} bytes; at most {max_bytes:,} are accepted.")
        return self.fetch(target, info)

    def _load_role(self, name: str) -> Metadata[Targets]:
        version = self.version(name)
        if not version:
            raise FleetError(f"The fleet at {self.store.url} has no role {name!r}; it is of another layout.")
        path = metadata_path(name, version)
        metadata: Metadata[Targets] = parse_metadata(self.store.get(path, MAX_METADATA_BYTES), Targets, path)
        above = delegator(name)
        verify(self.root.signed if above == Root.type else self.role(above).signed, name, metadata, path)
        check_version(metadata, version, path)
        return metadata


def load(store: Store, memory: Memory) -> View:
    """The fleet in ``store``, verified from what ``memory`` holds (rules 1 to 3).

    Raises:
        TrustError: it is not what the fleet's keys signed, or older than what this admin has seen.
        StoreError: the store cannot be read.
    """
    root = _load_root(store, memory)
    timestamp = _load_timestamp(store, root.signed, memory)
    view = View(store, root, timestamp, *_load_snapshot(store, root.signed, timestamp))
    if view.snapshot_version < memory.snapshot:
        raise _rolled_back(store, "snapshot", view.snapshot_version, memory.snapshot)
    return view


def read_timestamp(store: Store) -> tuple[Version, Metadata[Timestamp]] | None:
    """The timestamp as it is in the store, not yet verified; ``None`` before the first."""
    path = metadata_path(Timestamp.type)
    try:
        seen = store.read(path, MAX_METADATA_BYTES)
    except MissingObjectError:
        return None
    return seen, parse_metadata(seen.data, Timestamp, path)


def parse_metadata(data: bytes, kind: type[Any], path: str) -> Metadata[Any]:
    """Metadata of the kind ``kind`` in ``data``.

    Raises:
        TrustError: it does not parse, or is of another kind.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise TrustError(f"{path} should be TUF metadata, but does not parse; see who can write there.") from error
    if not isinstance(metadata.signed, kind):
        raise TrustError(f"{path} should be metadata of the kind {kind.type!r}, but is {metadata.signed.type!r}.")
    return metadata


def verify(above: Root | Targets, role: str, metadata: Metadata[Any], path: str) -> None:
    """Refuse ``metadata`` unless the keys that ``above`` names for ``role`` have signed it.

    Raises:
        TrustError: too few have.
    """
    try:
        above.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise TrustError(
            f"{path} should be signed by the fleet's keys for {role!r}, but is not; see who can write to the store."
        ) from error


def check_version(metadata: Metadata[Any], expected: int, path: str) -> None:
    """Refuse ``metadata`` of another version than its name says.

    Raises:
        TrustError: it is of another version.
    """
    if metadata.signed.version != expected:
        raise TrustError(f"{path} says that it is version {metadata.signed.version}; an old one was put there.")


def _load_root(store: Store, memory: Memory) -> Metadata[Root]:
    root: Metadata[Root] = parse_metadata(memory.root.encode(), Root, "the trusted root")
    for version in range(root.signed.version + 1, root.signed.version + MAX_ROOTS):
        path = metadata_path(Root.type, version)
        try:
            data = store.get(path, MAX_METADATA_BYTES)
        except MissingObjectError:
            break
        following: Metadata[Root] = parse_metadata(data, Root, path)
        check_version(following, version, path)
        verify(root.signed, Root.type, following, path)
        verify(following.signed, Root.type, following, path)
        root = following
    return root


def _load_timestamp(store: Store, root: Root, memory: Memory) -> Metadata[Timestamp] | None:
    found = read_timestamp(store)
    if found is None:
        if memory.timestamp:
            raise TrustError(f"The fleet at {store.url} has lost its timestamp; see who can write there.")
        return None
    metadata = found[1]
    verify(root, Timestamp.type, metadata, metadata_path(Timestamp.type))
    if metadata.signed.version < memory.timestamp:
        raise _rolled_back(store, "timestamp", metadata.signed.version, memory.timestamp)
    return metadata


def _load_snapshot(
    store: Store, root: Root, timestamp: Metadata[Timestamp] | None
) -> tuple[Metadata[Snapshot] | None, bytes]:
    snapshot, data = (None, b"") if timestamp is None else _named_snapshot(store, root, timestamp.signed.snapshot_meta)
    while True:
        version = snapshot.signed.version + 1 if snapshot is not None else 1
        path = metadata_path(Snapshot.type, version)
        try:
            later_data = store.get(path, MAX_METADATA_BYTES)
        except MissingObjectError:
            return snapshot, data
        later = _checked_snapshot(later_data, root, path, version)
        if snapshot is not None:
            _check_follows(snapshot.signed, later.signed, path)
        snapshot, data = later, later_data


def _named_snapshot(store: Store, root: Root, meta: MetaFile) -> tuple[Metadata[Snapshot], bytes]:
    path = metadata_path(Snapshot.type, meta.version)
    data = store.get(path, MAX_METADATA_BYTES)
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise TrustError(f"{path} is not the one that the timestamp names; see who can write there.") from error
    return _checked_snapshot(data, root, path, meta.version), data


def _checked_snapshot(data: bytes, root: Root, path: str, version: int) -> Metadata[Snapshot]:
    metadata: Metadata[Snapshot] = parse_metadata(data, Snapshot, path)
    verify(root, Snapshot.type, metadata, path)
    check_version(metadata, version, path)
    return metadata


def _check_follows(before: Snapshot, after: Snapshot, path: str) -> None:
    for name, meta in before.meta.items():
        if name not in after.meta or after.meta[name].version < meta.version:
            raise TrustError(f"{path} takes {name} back to an older version; see who can write there.")


def _rolled_back(store: Store, what: str, found: int, expected: int) -> TrustError:
    return TrustError(
        f"The store {store.url} shows {what} {found} of the fleet, but {expected} was seen before: it was set back; "
        "see who can write there."
    )
