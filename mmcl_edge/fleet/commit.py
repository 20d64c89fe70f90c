"""One change of a fleet: what is written, in which order, and who wins when two admins write at once.

1. Content (archives, documents) under its own hash: harmless until metadata names it.
2. Metadata of each changed role, under the next version that is free. A version that is taken belongs to an admin who
   was cut short or is at work; it is skipped.
3. The next snapshot, created on the condition that there is none: here it is decided. Who comes second is told so.
4. The timestamp, replaced on the condition that it is the one that was read.

Each step is on the disk before the next (``Store.flush``).

A cut before 3 changes nothing that anyone reads. A cut between 3 and 4 leaves a whole snapshot that devices do not see
yet: the next command of any admin goes on from it, and signs the timestamp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from mmcl_edge.errors import ConflictError, FleetError
from mmcl_edge.fleet.layout import Lifetimes, metadata_path, target_path
from mmcl_edge.fleet.metadata import read_timestamp, verify
from mmcl_edge.fleet.parallel import in_parallel
from mmcl_edge.fleet.roles import delegator, expiry
from mmcl_edge.fleet.signers import Signers, sign
from mmcl_edge.fleet.view import View

MAX_SKIPPED = 1000


class Commit:
    """One change on top of ``view``: give it documents and roles, then ``write``.

    Args:
        view: what the change starts from.
        signers: the keys at hand.
        now: the time that expiries count from.
        lifetimes: how long metadata is good.
        successor: a root that is about to replace the present one: everything is signed for both.
        written: told the versions of timestamp and snapshot once they are in the store.
    """

    def __init__(
        self,
        view: View,
        signers: Signers,
        now: datetime,
        lifetimes: Lifetimes,
        *,
        successor: Root | None = None,
        written: Callable[[int, int], None] | None = None,
    ) -> None:
        self._view = view
        self._signers = signers
        self._now = now
        self._lifetimes = lifetimes
        self._written = written
        self._succession = successor is not None
        self._roots: list[Root] = [view.root.signed, *([successor] if successor is not None else [])]
        self._edits: dict[str, Targets] = {}
        self._content: dict[str, bytes] = {}

    def edit(self, role: str) -> Targets:
        """What ``role`` says, to be changed in place."""
        if role not in self._edits:
            self._edits[role] = self._view.edited(role)
        return self._edits[role]

    def begin(self, roles: Mapping[str, Targets]) -> None:
        """Take ``roles`` as the first versions of roles that have none."""
        self._edits |= roles

    def document(self, role: str, target: str, data: bytes) -> None:
        """Make ``data`` the content of ``target`` in ``role``."""
        info = TargetFile.from_data(target, data, ["sha256"])
        self.edit(role).targets[target] = info
        self._content[target_path(target, info.hashes["sha256"])] = data

    def require_keys(self) -> None:
        """Refuse a change that no key here may sign, before anything is written.

        Raises:
            FleetError: a role's key is not here.
        """
        for role in (*self._edits, Snapshot.type, Timestamp.type):
            for above in self._delegators(role):
                keys = keys_for(above, role)
                if all(self._signers.signer(key, succession=self._succession) is None for key in keys):
                    raise _no_key(role, keys)

    def write(self) -> None:
        """Write everything, in the order of the module's docstring.

        Raises:
            ConflictError: another admin was first; nothing that devices see has changed.
            FleetError: a key that must sign is not here; nothing was written.
            StoreError: the store cannot be written.
        """
        self.require_keys()
        store, version = self._view.store, self._view.snapshot_version + 1
        in_parallel(lambda item: store.put(*item), list(self._content.items()))
        versions = dict(in_parallel(self._write_role, list(self._edits.items())))
        meta = dict(self._view.meta) | {f"{name}.json": MetaFile(number) for name, number in versions.items()}
        store.flush()
        snapshot = Metadata(Snapshot(version=version, expires=self._expiry(Snapshot.type), meta=meta))
        self._sign(snapshot, Snapshot.type)
        data = snapshot.to_bytes()
        if not store.create(metadata_path(Snapshot.type, version), data):
            raise ConflictError(
                "Another admin changed the fleet at the same moment and was first; nothing of this command reached "
                "the devices. Run it again."
            )
        store.flush()
        self.write_timestamp(MetaFile.from_data(version, data, ["sha256"]))

    def write_timestamp(self, snapshot: MetaFile) -> None:
        """Sign a timestamp for ``snapshot``, unless there is one for a later snapshot by then.

        Raises:
            ConflictError: other admins keep changing it.
            FleetError: no online key is here.
        """
        store = self._view.store
        path = metadata_path(Timestamp.type)
        for _ in range(MAX_SKIPPED):
            seen = read_timestamp(store)
            if seen is not None:
                verify(self._view.root.signed, Timestamp.type, seen[1], path)
                if seen[1].signed.snapshot_meta.version > snapshot.version:
                    return
            version = seen[1].signed.version + 1 if seen is not None else 1
            metadata = Metadata(Timestamp(version, expires=self._expiry(Timestamp.type), snapshot_meta=snapshot))
            self._sign(metadata, Timestamp.type)
            data = metadata.to_bytes()
            if store.replace(path, data, seen[0]) if seen is not None else store.create(path, data):
                store.flush()
                if self._written is not None:
                    self._written(version, snapshot.version)
                return
        raise ConflictError("Other admins keep changing the fleet; run the command again when they are done.")

    def _write_role(self, item: tuple[str, Targets]) -> tuple[str, int]:
        name, targets = item
        targets.expires = self._expiry(name)
        for version in range(self._view.version(name) + 1, self._view.version(name) + MAX_SKIPPED):
            targets.version = version
            metadata = Metadata(targets)
            self._sign(metadata, name)
            if self._view.store.create(metadata_path(name, version), metadata.to_bytes()):
                return name, version
        raise FleetError(f"More than {MAX_SKIPPED:,} versions of {name!r} were left unfinished; clear the store.")

    def _sign(self, metadata: Metadata[Any], role: str) -> None:
        keys = self._keys(role)
        if not sign(metadata, keys, self._signers, succession=self._succession):
            raise _no_key(role, keys)
        self._verify(metadata, role)

    def _verify(self, metadata: Metadata[Any], role: str) -> None:
        for one in self._delegators(role):
            if not one.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
                raise _no_key(role, keys_for(one, role))

    def _keys(self, role: str) -> tuple[Key, ...]:
        return tuple({key.keyid: key for one in self._delegators(role) for key in keys_for(one, role)}.values())

    def _delegators(self, role: str) -> Sequence[Root | Targets]:
        above = delegator(role)
        if above == Root.type:
            return self._roots
        return [self._edits[above] if above in self._edits else self._view.role(above).signed]

    def _expiry(self, role: str) -> datetime:
        return expiry(role, self._now, self._lifetimes)


def keys_for(above: Root | Targets, role: str) -> tuple[Key, ...]:
    """The keys that ``above`` names for ``role``."""
    return tuple(above.get_key(keyid) for keyid in above.get_delegated_role(role).keyids)


def _no_key(role: str, keys: Sequence[Key]) -> FleetError:
    ids = ", ".join(key.keyid[:16] for key in keys)
    return FleetError(
        f"The role {role!r} must be signed by a key that is not here (one of {ids}); run this where it is, or copy it "
        "into the folder of keys (MMCL_EDGE_KEYS)."
    )
