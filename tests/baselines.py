"""What tests of the baselines share: the small host of other learners' tests, with a budget of choice."""

from __future__ import annotations

from mmcl_edge.learners.host import Host
from tests.learning import EXEMPLARS, config, host


def small_host(*, seed: int = 0, epochs: int = 3, budget_bytes: int = 1 << 20, **adapter: object) -> Host:
    """A host of narrow adapters and short training; ``adapter`` are changes of its shape."""
    shape = config(epochs, **adapter)
    replay = shape.replay.model_copy(update={"exemplars": EXEMPLARS, "budget_bytes": budget_bytes})
    return host(shape.model_copy(update={"replay": replay}), seed)
