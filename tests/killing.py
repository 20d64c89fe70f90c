"""Children that sync or put a pack in use until they are killed. Preloaded by a fork server, which runs no threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmcl_edge.fleet.sync import SyncRequest, sync
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from tests.fleets import FakeExaminer

assert Runtime is not None  # imported here, so that no child spends its time on that


def sync_in_child(root: Path, begun: Any, *, examine: bool) -> None:
    """Sync; ``examine`` runs the real runtime, else a rule stands for it and nearly all that is left is writing."""
    os.environ["OMP_NUM_THREADS"] = "1"
    workspace = Workspace(root).open()
    begun.set()
    asked = SyncRequest(tolerance=1.0, provider="cpu", threads=1)
    sync(workspace, asked, make_examiner=None if examine else FakeExaminer().make)


def use_in_child(root: Path, begun: Any, *, source: Path) -> None:
    """Bring the pack in folder ``source`` into the workspace and put it in use, as ``mmcl-edge pack use`` does."""
    workspace = Workspace(root).open()
    begun.set()
    with workspace.lock():
        workspace.use_pack(workspace.install_pack(source))
