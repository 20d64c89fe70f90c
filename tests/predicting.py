"""Packs with awake adapters on tiny bundles, and samples, for tests of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmcl_edge.adapters.model import build_model
from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig
from mmcl_edge.learners.persistence import contents_of
from mmcl_edge.packs import write_pack
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import Sample

LABELS = ("ant", "bee", "cow")


def small_method(placement: str = "inline") -> MethodConfig:
    """Settings of small adapters, which no predict graph serves."""
    return MethodConfig(
        adapter=AdapterConfig(placement=placement, experts=4, rank=4, ladder_dim=8, ladder_tokens=4, map_grid=4),
        head=HeadConfig(joint_dim=16, fusion_hidden=16),
    )


def make_pack(
    folder: Path,
    bundle: Bundle,
    *,
    seed: int = 0,
    placement: str = "inline",
    method: MethodConfig | None = None,
    labels: Sequence[str] = LABELS,
) -> Path:
    """A pack whose every tensor counts: the answer depends on ``seed``; small adapters unless ``method`` is given."""
    method = method or small_method(placement)
    backbones = open_backbones(bundle, SessionFactory(ThreadPlan(onnx=1), provider="cpu"))
    model = build_model(method.adapter, method.head, backbones, generator=torch.Generator().manual_seed(seed))
    model.head.grow(len(labels), torch.Generator().manual_seed(seed + 1))
    draw = torch.Generator().manual_seed(seed + 2)
    for block in model.blocks:
        for name in block.modalities:
            block.bank.stack_of(name).get_parameter("up").data.normal_(std=0.5, generator=draw)
    contents = contents_of(
        model,
        method,
        bundle_digest=bundle.family,
        labels=tuple(labels),
        parents=(),
        sample_counts={},
        experiences=("one",),
        evaluation={},
    )
    return folder / write_pack(folder, contents)


def sound(duration_s: float = 1.0, *, seed: int = 0, rate_hz: int = 16_000) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(duration_s * rate_hz)).astype(np.float32)


def picture(views: int | None = None, *, seed: int = 0, height: int = 70, width: int = 90) -> np.ndarray:
    shape = (height, width, 3) if views is None else (views, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def samples() -> list[Sample]:
    """Sounds of three lengths, one to three frames, and every way of lacking a modality."""
    return [
        Sample(sound(1.0, seed=1), picture(1, seed=1)),
        Sample(sound(0.3, seed=2), picture(2, seed=2)),
        Sample(sound(2.5, seed=3), picture(1, seed=3)),
        Sample(sound(1.0, seed=4), None),
        Sample(None, picture(3, seed=5)),
        Sample(sound(0.9, seed=6), picture(1, seed=6)),
    ]
