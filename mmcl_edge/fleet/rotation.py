"""Changing a fleet's keys, with a moment of cut or theft at any point in mind.

1. ``propose`` writes the next root metadata, unsigned. ``sign_root`` adds the signatures of the keys that are here;
   the file may travel to keys that are elsewhere (``mmcl-edge fleet keys sign``).
2. ``install`` refuses it unless the threshold of the old keys and that of the new ones have signed it.
3. Where release or online keys change, everything they sign is signed anew first, with old and new keys: devices that
   know the old root, and those that know the new one, both accept it.
4. Then the root is created. A cut before leaves the old keys in force and everything valid; the same call goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from mmcl_edge.errors import ConflictError, FleetError
from mmcl_edge.fleet.layout import PACKS_ROLE, Lifetimes, metadata_path
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.roles import check_threshold, delegate, expiry, set_keys
from mmcl_edge.fleet.signers import Signers
from mmcl_edge.fleet.view import View

Changes = dict[str, tuple[Sequence[Key], int]]


def propose(root: Root, changes: Changes, now: datetime, lifetimes: Lifetimes) -> Metadata[Root]:
    """The unsigned successor of ``root``.

    Args:
        root: in force.
        changes: ``root``, ``targets`` or ``online`` to its new keys and threshold; empty renews the root alone.
        now: when its life begins.
        lifetimes: how long it lasts.

    Raises:
        FleetError: a threshold that the keys cannot meet.
    """
    following = Root.from_dict(root.to_dict())
    following.version += 1
    following.expires = expiry(Root.type, now, lifetimes)
    for group, (keys, threshold) in changes.items():
        check_threshold(threshold, len(keys))
        set_keys(following, group, keys, threshold)
    return Metadata(following)


def sign_root(root: Metadata[Root], signers: Signers, *, previous: Root | None) -> tuple[str, ...]:
    """Add the signatures of every key that is here; returns the ids of those whose signatures are there then.

    Args:
        root: gains signatures.
        signers: the keys at hand.
        previous: the root in force; ``None`` for the first.
    """
    for key in root_signers(root.signed, previous):
        signer = signers.signer(key, succession=key.keyid not in root.signed.roles[Root.type].keyids)
        if signer is not None:
            root.sign(signer, append=True)
    result = root.signed.get_root_verification_result(previous, root.signed_bytes, root.signatures)
    return tuple(sorted(result.signed))


def root_signers(root: Root, previous: Root | None) -> tuple[Key, ...]:
    """The keys whose signatures count for ``root``: its own, and those of the one before."""
    found = {
        keyid: one.keys[keyid]
        for one in (root, *([previous] if previous is not None else []))
        for keyid in one.roles[Root.type].keyids
    }
    return tuple(found.values())


def missing(root: Metadata[Root], previous: Root | None) -> str | None:
    """What ``root`` still lacks, as half a sentence; ``None`` where it has enough signatures."""
    result = root.signed.get_root_verification_result(previous, root.signed_bytes, root.signatures)
    if result:
        return None
    lacking = []
    for name, part in (("the keys before", result.first), ("the new keys", result.second)):
        if not part:
            ids = ", ".join(keyid[:16] for keyid in part.unsigned)
            lacking.append(f"{part.threshold - len(part.signed)} more of {name} ({ids})")
    if previous is None:
        lacking = lacking[-1:]
    return " and ".join(lacking)


def install(repository: Repository, root: Metadata[Root]) -> None:
    """Put the signed ``root`` in force; nothing changes if it is in force already.

    Raises:
        FleetError: it lacks signatures, does not follow the one in force, or a key that must sign is not here.
        ConflictError: another admin was first.
        StoreError: the store cannot be written.
    """
    view = repository.view()
    if root.to_bytes() == view.root.to_bytes():
        repository.complete(view)
        return
    if root.signed.version != view.root.signed.version + 1:
        raise FleetError(
            f"The fleet's root is version {view.root.signed.version}, so the next is {view.root.signed.version + 1}, "
            f"but the file holds {root.signed.version}; make it anew with 'mmcl-edge fleet keys rotate'."
        )
    lacking = missing(root, view.root.signed)
    if lacking is not None:
        raise FleetError(f"The root metadata lacks signatures: {lacking}; run 'mmcl-edge fleet keys sign FILE' there.")
    if not _holds_under(view, root.signed):
        _sign_for_both(repository, view, root.signed)
    if not repository.store.create(metadata_path(Root.type, root.signed.version), root.to_bytes()):
        raise ConflictError("Another admin changed the fleet's keys at the same moment and was first; look at status.")
    repository.view()


def _holds_under(view: View, root: Root) -> bool:
    """Whether what the fleet has now is valid under ``root`` too."""
    current = [
        (Targets.type, view.role(Targets.type)),
        (Snapshot.type, view.snapshot),
        (Timestamp.type, view.timestamp),
    ]
    valid = all(
        metadata is not None and root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        for role, metadata in current
    )
    delegations = view.role(Targets.type).signed.delegations
    named = set(delegations.keys) if delegations is not None else set()
    return view.is_complete and valid and named == set(root.roles[Targets.type].keyids)


def _sign_for_both(repository: Repository, view: View, root: Root) -> None:
    commit = repository.commit(view, successor=root)
    if root.roles[Targets.type] != view.root.signed.roles[Targets.type]:
        for name in view.delegated():
            commit.edit(name)
        keys = [root.keys[keyid] for keyid in root.roles[Targets.type].keyids]
        delegate(commit.edit(Targets.type), commit.edit(PACKS_ROLE), view.settings().bins, keys)
    commit.write()
