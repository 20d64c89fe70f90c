"""Tiny bundles with random weights, exported in seconds: for every test that needs a bundle but no accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from mmcl_edge.bundle import AudioInput, Bundle, WeightsOrigin
from mmcl_edge.export.exporter import export_sources
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.timm_models import load_timm
from mmcl_edge.export.whisper import TOKEN_STRIDE, WhisperLayer, WhisperStem
from mmcl_edge.types import AUDIO, FRAMES, PoolSpec

Pair = Literal["cnn", "vit"]
RANDOM = WeightsOrigin(source="random weights", licence="none", trained=False)


def tiny_bundle(
    folder: Path, *, vjp: Literal["recompute", "save"] = "recompute", pair: Pair = "cnn", blocks: int = 2
) -> Bundle:
    """Export a tiny pair into ``folder`` (which must not exist); the same bytes on every call.

    Args:
        folder: the bundle's folder.
        vjp: as ``export_bundle`` takes it.
        pair: ``cnn``: a sound encoder of Whisper's make (tokens follow the clip's length) and an EfficientNet
            (maps), like the default pair. ``vit``: two ViTs with prefix tokens, the sound one of fixed length.
        blocks: B.
    """
    return export_sources(folder, tiny_sources(pair), blocks=blocks, vjp=vjp)


def tiny_sources(pair: Pair = "cnn") -> tuple[SourceBackbone, SourceBackbone]:
    """The torch backbones behind ``tiny_bundle``: weights are the same on every call."""
    if pair == "vit":
        audio = load_timm(AUDIO, "test_vit", untrained=True, image_size=64)
        return audio, load_timm(FRAMES, "test_vit", untrained=True, image_size=64)
    return tiny_whisper(), load_timm(FRAMES, "test_efficientnet", untrained=True, image_size=64)


def tiny_whisper(width: int = 32, depth: int = 2, heads: int = 2) -> SourceBackbone:
    """A random encoder of Whisper's make; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        stem = WhisperStem(width)
        stem.positions.normal_(std=0.1)
        layers = tuple((f"blocks.{i}", WhisperLayer(width, heads)) for i in range(depth))
    spec = AudioInput(max_duration_s=30.0, token_stride=TOKEN_STRIDE)
    norm = nn.LayerNorm(width)
    return SourceBackbone(AUDIO, "tiny-whisper", spec, stem, layers, norm, PoolSpec(), RANDOM, stem.log_mel)
