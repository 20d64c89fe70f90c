"""Keeping a fleet fresh: what expires is signed anew in good time. Meant to run every day, on its own.

1. What an admin who was cut short left out is completed.
2. Roles of which more than half the life is over are renewed, where a release key is here.
3. The snapshot is renewed likewise, or with them.
4. The timestamp is signed anew each time.
5. The root is renewed likewise, where enough root keys are here.

What should be renewed and cannot be, for want of a key, is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.metadata import MetaFile, Root, Snapshot, Targets

from mmcl_edge.errors import KeyFileError
from mmcl_edge.fleet.layout import Lifetimes, metadata_path
from mmcl_edge.fleet.repository import Repository
from mmcl_edge.fleet.roles import ages
from mmcl_edge.fleet.rotation import missing, propose, sign_root
from mmcl_edge.fleet.view import View


@dataclass(frozen=True)
class Refreshed:
    """What was renewed.

    Attributes:
        renewed: roles, beside the timestamp.
        waiting: roles that should be renewed, whose keys are not here.
    """

    renewed: tuple[str, ...]
    waiting: tuple[str, ...]


def refresh(repository: Repository, *, everything: bool = False) -> Refreshed:
    """Renew what is due; ``everything`` renews every role that a key here may sign.

    Raises:
        ConflictError: another admin was first.
        FleetError: no online key is here.
        TrustError, StoreError: as ``Repository.view``.
    """
    view, now = repository.view(), repository.clock()
    lifetimes = view.settings().lifetimes
    due = [
        name
        for name in view.delegated(Targets.type)
        if everything or ages(view.role(name).signed, name, now, lifetimes)
    ]
    renewable = bool(due) and _holds(repository, view)
    commit = repository.commit(view)
    for name in due if renewable else ():
        commit.edit(name)
    snapshot = view.snapshot
    assert snapshot is not None
    if renewable or everything or ages(snapshot.signed, Snapshot.type, now, lifetimes):
        commit.write()
        renewed = [*(due if renewable else ()), Snapshot.type]
    else:
        commit.write_timestamp(MetaFile.from_data(view.snapshot_version, view.snapshot_data, ["sha256"]))
        renewed = []
    waiting = [] if renewable else due
    if everything or ages(view.root.signed, Root.type, now, lifetimes):
        (renewed if _renew_root(repository, view, lifetimes) else waiting).append(Root.type)
    repository.view()
    return Refreshed(tuple(renewed), tuple(waiting))


def _holds(repository: Repository, view: View) -> bool:
    """Whether a release key is here and can be opened."""
    try:
        return any(repository.signers.signer(key) is not None for key in view.keys("targets"))
    except KeyFileError:
        return False


def _renew_root(repository: Repository, view: View, lifetimes: Lifetimes) -> bool:
    root = propose(view.root.signed, {}, repository.clock(), lifetimes)
    try:
        sign_root(root, repository.signers, previous=view.root.signed)
    except KeyFileError:
        return False
    if missing(root, view.root.signed) is not None:
        return False
    return repository.store.create(metadata_path(Root.type, root.signed.version), root.to_bytes())
