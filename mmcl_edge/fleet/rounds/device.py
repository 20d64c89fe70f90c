"""The device's part of a round.

Rules, in this order; whatever refuses becomes an answer that says why, and the pack in use stays in use:

1. The workspace is locked: a device does one thing at a time.
2. The fleet's pack is verified like any archive from outside, for this device's bundle, and takes its place in
   ``packs/``; the device's held-out samples and pairs are indexed for it, so that it cannot cost the device its own
   classes.
3. It comes into use, and ``adapt`` learns the device's task on top of it, in the way the order says.
4. What was learned goes back as a delta against the fleet's pack. Samples stay here. Sums that the fleet's pack holds
   already are not sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmcl_edge.errors import MmclEdgeError
from mmcl_edge.fleet.rounds.messages import MAX_REASON_CHARS, Answer, Order, packed, unpacked
from mmcl_edge.fleet.staging import staging_folder
from mmcl_edge.learners.analytic.addends import contributions
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import AdaptRequest, adapt
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.run_record import AdaptReport
from mmcl_edge.runtime.workspace import Workspace

Learn = Callable[[Workspace, AdaptRequest], AdaptReport]


def take_part(
    workspace: Workspace,
    order: Order,
    *,
    task: str,
    data: Path | None = None,
    provider: str = "auto",
    threads: int | None = None,
    learn: Learn = adapt,
) -> Answer:
    """Carry out ``order`` (the rules stand in the module docstring).

    Args:
        workspace: of rounds: a device that also syncs has another one for that.
        order: from the server.
        task: name of what the device has to learn.
        data: its folder; ``None`` is the workspace's ``tasks/<task>``.
        provider: execution provider of the backbones.
        threads: of the backbones; ``None`` takes every core.
        learn: makes a pack from a request; ``adapt``.
    """
    try:
        method, how = order.methods()
        request = AdaptRequest(task, data=data, method=method, adapt=how, provider=provider, threads=threads)
        with workspace.lock(), staging_folder(workspace) as scratch:
            base = _follow(workspace, order, scratch)
            report = learn(workspace, request)
            if report.pack_digest is None:
                return _refusal(order, "the new pack would cost old classes more than the tolerance")
            made = workspace.packs_path / report.pack_digest
            if base is not None and contributions(read_pack(made)) == contributions(read_pack(base)) != set():
                return _refusal(order, "nothing new: the fleet's pack holds what this device has to tell")
            return Answer(
                round=order.round,
                base=order.pack,
                pack=made.name,
                archive=packed(made, scratch=scratch, parent=base),
                samples=report.train_samples,
            )
    except MmclEdgeError as error:
        return _refusal(order, str(error))


def _follow(workspace: Workspace, order: Order, scratch: Path) -> Path | None:
    """Rules 2 and 3: the fleet's pack, in use."""
    if order.pack is None:
        return None
    here = workspace.current_pack()
    folder = unpacked(
        order.archive,
        order.pack,
        workspace.packs_path,
        scratch=scratch,
        bundle_digest=workspace.bundle_family(),
        parent_of=lambda digest: None,
    )
    if here is None or here.name != order.pack:
        pack, old = read_pack(folder), None if here is None else here.name
        space = pack.space()
        modalities = () if space is None else space.modalities
        ReplayStore(workspace.replay_path).follow(old, order.pack, pack.manifest.label_names, modalities)
        workspace.use_pack(order.pack)
    return folder


def _refusal(order: Order, reason: str) -> Answer:
    return Answer(round=order.round, base=order.pack, refused=reason[:MAX_REASON_CHARS])
