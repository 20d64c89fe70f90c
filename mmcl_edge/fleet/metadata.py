"""Reading TUF metadata from a store: parsed, of the kind and version expected, signed by the keys that count."""

from __future__ import annotations

from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from mmcl_edge.errors import MissingObjectError, TrustError
from mmcl_edge.fleet.layout import MAX_METADATA_BYTES, metadata_path
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


def load_root(store: Store, memory: Memory) -> Metadata[Root]:
    """The newest root, by the chain that begins with the trusted one.

    Raises:
        TrustError: a link of the chain lacks signatures.
        StoreError: the store cannot be read.
    """
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


def load_timestamp(store: Store, root: Root, memory: Memory) -> Metadata[Timestamp] | None:
    """The timestamp; ``None`` before the first.

    Raises:
        TrustError: it is not signed by the online keys, or older than the one seen last.
        StoreError: the store cannot be read.
    """
    found = read_timestamp(store)
    if found is None:
        if memory.timestamp:
            raise TrustError(f"The fleet at {store.url} has lost its timestamp; see who can write there.")
        return None
    metadata = found[1]
    verify(root, Timestamp.type, metadata, metadata_path(Timestamp.type))
    if metadata.signed.version < memory.timestamp:
        raise rolled_back(store, "timestamp", metadata.signed.version, memory.timestamp)
    return metadata


def load_snapshot(
    store: Store, root: Root, timestamp: Metadata[Timestamp] | None
) -> tuple[Metadata[Snapshot] | None, bytes]:
    """The snapshot that counts, with its bytes: the one of the timestamp, or a later one that lies there.

    Raises:
        TrustError: it is not what the timestamp names, not signed by the online keys, or goes back.
        StoreError: the store cannot be read.
    """
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


def rolled_back(store: Store, what: str, found: int, expected: int) -> TrustError:
    """The sentence for a store that shows an older state than was seen before."""
    return TrustError(
        f"The store {store.url} shows {what} {found} of the fleet, but {expected} was seen before: it was set back; "
        "see who can write there."
    )
