"""The pairs of backbones that speed is measured on, as arguments of ``export_bundle`` and ``torch_backbones``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_PAIR = "default"
PAIRS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT_PAIR: {},
    "vit-tiny": {"audio": "vit_tiny_patch16_224", "frames": "vit_tiny_patch16_224", "untrained": True},
    "vit-base": {"audio": "vit_base_patch16_224", "frames": "vit_base_patch16_224", "untrained": True},
}
"""By name. The sound model of the two larger ones is a ViT over a log-mel spectrogram; their weights are random,
which makes no difference to speed."""
