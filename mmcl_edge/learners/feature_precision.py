"""Features in fewer bits: what is kept of a tensor, and the tensor that training gets back."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_edge.adapters.kept import Kept
from mmcl_edge.config import FeaturePrecision

_SCALE = "#scale"
_LEVELS = 127
_LARGEST_HALF = 65_504.0


def encode(kept: Kept, precision: FeaturePrecision) -> Kept:
    """Tensors as they are kept.

    ``fp16``: half precision, but single where a value would not fit. ``int8``: 255 levels and one float32 scale for
    every vector along the last axis, at most half a level (1/254 of the vector's largest value) from the original.
    Integers stay as they are.
    """
    stored: Kept = {}
    for name, given in kept.items():
        value = given.contiguous()
        if not value.is_floating_point() or precision == "fp32":
            stored[name] = value
        elif precision == "fp16":
            stored[name] = _halved(value)
        else:
            scale = value.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / _LEVELS
            stored[name] = (value / scale).round().to(torch.int8)
            stored[name + _SCALE] = scale
    return stored


def decode(stored: Kept) -> Kept:
    """Tensors for a batch; half precision stays, for a batch widens it."""
    return {
        name: value * stored[name + _SCALE] if name + _SCALE in stored else value
        for name, value in stored.items()
        if not name.endswith(_SCALE)
    }


def _halved(value: Tensor) -> Tensor:
    fits = bool(value.abs().max() <= _LARGEST_HALF) if value.numel() else True
    return value.half() if fits else value
