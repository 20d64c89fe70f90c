"""Which packs of a device are needed, and for what. Nothing is changed here.

A pack is needed if one of these rules names it; the first that does gives the reason:

1. The links ``current`` and ``previous``.
2. The trial that goes on: the pack on trial, the released one, and the way back (``runtime.trial``).
3. What the device remembers of its fleet: releases that were in use here, which deltas start from and which a
   withdrawal goes back to; and the newest of each channel (``fleet.sync_state``).
4. The newest upload: a push that was cut goes on with it (``fleet.push``).
5. What such a pack was made from: the parents of a release, and of every pack with several parents between the pack and
   the releases below it. If one of the parents is withdrawn, ``sync`` goes on from the others, with what was learned
   here. A release's own ancestors reached the fleet, so no further than its parents is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mmcl_edge.fleet.joining import FOLDER
from mmcl_edge.fleet.push import newest_upload
from mmcl_edge.fleet.sync_state import StateRecord
from mmcl_edge.packs.lineage import known_manifest
from mmcl_edge.runtime.workspace import Workspace


def needed_packs(workspace: Workspace) -> dict[str, str]:
    """Digests of the packs that are needed, here or not, and for what (the rules stand in the module docstring).

    Raises:
        PackError: a link is damaged.
        IntegrityError: a record is damaged.
    """
    state = StateRecord(workspace.trust_path / FOLDER).read()
    releases = {} if state is None else {one.pack: "a release that was in use" for one in state.applied}
    releases |= {} if state is None else {one.pack: "the newest release" for one in state.seen.values()}
    trial = workspace.trial.read()
    if trial is not None:
        releases.setdefault(trial.released, "released, and on trial")
    named = dict(reversed([*_links(workspace), *_on_trial(workspace), *releases.items(), *_uploaded(workspace)]))
    made_from = _made_from(named, set(releases), workspace.packs_path)
    return {**dict.fromkeys(made_from, "a pack that is needed was made from it"), **named}


def _links(workspace: Workspace) -> Iterator[tuple[str, str]]:
    for folder, why in ((workspace.current_pack(), "in use"), (workspace.previous_pack(), "previous")):
        if folder is not None:
            yield folder.name, why


def _on_trial(workspace: Workspace) -> Iterator[tuple[str, str]]:
    trial = workspace.trial.read()
    if trial is not None:
        yield trial.pack, "on trial"
        for digest in (trial.good, trial.previous):
            if digest is not None:
                yield digest, "the way back from a trial"


def _uploaded(workspace: Workspace) -> Iterator[tuple[str, str]]:
    sent = newest_upload(workspace.trust_path)
    if sent is not None:
        yield sent.pack, "the newest upload"


def _made_from(named: Iterable[str], releases: set[str], packs: Path) -> set[str]:
    """Rule 5."""
    found: set[str] = set()
    seen: set[str] = set()
    left = list(named)
    while left:
        digest = left.pop()
        manifest = None if digest in seen else known_manifest(digest, packs)
        seen.add(digest)
        if manifest is None:
            continue
        parents = [parent.digest for parent in manifest.parents]
        if len(parents) > 1 or digest in releases:
            found.update(parents)
        if digest not in releases:
            left += parents
    return found
