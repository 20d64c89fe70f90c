"""Children that learn a modality from pairs until they are killed. Preloaded by a fork server without threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmcl_edge.runtime.adapt_pairs import PairRequest, adapt_pairs
from mmcl_edge.runtime.workspace import Workspace


def adapt_pairs_in_child(root: Path, asked: PairRequest, begun: Any) -> None:
    """Run ``adapt_pairs`` in the workspace at ``root``."""
    os.environ["OMP_NUM_THREADS"] = "1"
    workspace = Workspace(root).open()
    begun.set()
    adapt_pairs(workspace, asked)
