"""What tests of the baselines share: a host on the small backbones, with everything small."""

from __future__ import annotations

from typing import Any

from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig, ReplayConfig, TrainConfig
from mmcl_edge.learners.host import Host
from tests.fakes import backbones, preprocess


def small_host(*, seed: int = 0, epochs: int = 3, budget_bytes: int = 1 << 20, **adapter: Any) -> Host:
    """A host of narrow adapters and short training."""
    config = MethodConfig(
        adapter=AdapterConfig(experts=3, rank=4, ladder_dim=8, ladder_tokens=4, map_grid=4, **adapter),
        head=HeadConfig(joint_dim=16, fusion_hidden=32),
        replay=ReplayConfig(exemplars=6, budget_bytes=budget_bytes),
        train=TrainConfig(epochs=epochs, min_steps=0, batch_size=8, learning_rate=1e-2),
    )
    return Host(backbones(), config, preprocess, seed)
