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

from securesystemslib.signer import Key
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from mmcl_edge.errors import FleetError, TrustError
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
from mmcl_edge.fleet.metadata import (
    Memory,
    check_version,
    load_root,
    load_snapshot,
    load_timestamp,
    parse_metadata,
    rolled_back,
    verify,
)
from mmcl_edge.fleet.parallel import in_parallel
from mmcl_edge.fleet.roles import SECTIONS, bins_of, delegator, keys_of
from mmcl_edge.fleet.store import Store


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

    def releases(self) -> tuple[Release, ...]:
        """What every channel names, in the order of their names.

        Raises:
            TrustError: see ``release``.
        """
        return tuple(release for name in self.channels() if (release := self.release(name)) is not None)

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
    root = load_root(store, memory)
    timestamp = load_timestamp(store, root.signed, memory)
    view = View(store, root, timestamp, *load_snapshot(store, root.signed, timestamp))
    if view.snapshot_version < memory.snapshot:
        raise rolled_back(store, "snapshot", view.snapshot_version, memory.snapshot)
    return view
