"""Making a fleet in a store.

1. The store is tried: it must refuse a second writer (conditional creation and replacement), or no fleet is made there.
2. The signed root metadata is created; here it is decided who makes the fleet. A root that is there already is gone on
   from if it names the same keys and nothing was finished; otherwise there is a fleet, and it is left alone.
3. Everything else is one commit: settings, no devices, empty channels and bins. A cut is mended by the same call.
"""

from __future__ import annotations

from datetime import datetime

from tuf.api.metadata import Metadata, MetaFile, Root, Targets

from mmcl_edge.errors import FleetError, StoreError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.fleet.commit import Commit
from mmcl_edge.fleet.layout import (
    DEVICES_ROLE,
    DEVICES_TARGET,
    MARKER,
    MAX_DOCUMENT_BYTES,
    MAX_METADATA_BYTES,
    SETTINGS_TARGET,
    Devices,
    Settings,
    dump,
    metadata_path,
)
from mmcl_edge.fleet.metadata import Memory, parse_metadata, read_timestamp, verify
from mmcl_edge.fleet.roles import empty_roles, keys_of
from mmcl_edge.fleet.signers import Signers
from mmcl_edge.fleet.store import Store, Version
from mmcl_edge.fleet.view import View, load

_MARKER = canonical_json({"fleet": "mmcl-edge", "layout": 1})


def found(store: Store, signers: Signers, root: Metadata[Root], settings: Settings, now: datetime) -> View:
    """Make the fleet whose signed root metadata is ``root``; returns it as it then is.

    Raises:
        FleetError: there is a fleet already, the root lacks signatures, or a key is not here.
        StoreError: the store cannot be written, or lets two writers overwrite one another.
    """
    if not root.signed.get_verification_result(Root.type, root.signed_bytes, root.signatures):
        raise FleetError("The root metadata lacks signatures; have it signed with 'mmcl-edge fleet keys sign FILE'.")
    _require_no_fleet(store)
    _try_conditions(store)
    root = _create_root(store, root)
    view = load(store, Memory(root=root.to_bytes().decode()))
    commit = Commit(view, signers, now, settings.lifetimes)
    if view.snapshot is not None:
        commit.write_timestamp(MetaFile.from_data(view.snapshot_version, view.snapshot_data, ["sha256"]))
    else:
        commit.begin(empty_roles(settings, keys_of(root.signed, "targets"), now))
        commit.document(Targets.type, SETTINGS_TARGET, dump(settings))
        commit.document(DEVICES_ROLE, DEVICES_TARGET, dump(Devices()))
        commit.write()
    return load(store, view.memory())


def _require_no_fleet(store: Store) -> None:
    if read_timestamp(store) is not None:
        raise FleetError(
            f"There is a fleet at {store.url} already; use it (mmcl-edge fleet status), or choose another place."
        )


def _try_conditions(store: Store) -> None:
    store.create(MARKER, _MARKER)
    other = Version(b"another", '"0"')
    if store.create(MARKER, _MARKER) or store.replace(MARKER, _MARKER, other):
        raise StoreError(
            f"The store {store.url} does not honour conditional writes (If-None-Match, If-Match), so two admins could "
            "overwrite one another; use another store, or a newer release of its server."
        )
    if store.get(MARKER, MAX_DOCUMENT_BYTES) != _MARKER:
        raise FleetError(f"{MARKER} in {store.url} is of another layout; choose another place, or update mmcl-edge.")


def _create_root(store: Store, root: Metadata[Root]) -> Metadata[Root]:
    """The root that counts: ``root``, or the one of a call that was cut short."""
    path = metadata_path(Root.type, 1)
    if store.create(path, root.to_bytes()):
        return root
    there: Metadata[Root] = parse_metadata(store.get(path, MAX_METADATA_BYTES), Root, path)
    verify(there.signed, Root.type, there, path)
    if (there.signed.keys, there.signed.roles) != (root.signed.keys, root.signed.roles):
        raise FleetError(
            f"Someone else began a fleet at {store.url} with another root ({path}); agree who makes it, then remove "
            "that folder or bucket's contents, or choose another place."
        )
    return there
