"""Synthetic raw inputs like the real thing, for tracing and for parity: chirps, shaded pictures, steps, tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcl_edge.bundle import AudioInput, InputSpec, MotionInput, TextInput
from mmcl_edge.export.vjp import DynamicAxes
from mmcl_edge.types import SAMPLE_RATE_HZ

BATCH_SIZES = (1, 2, 5)
DURATIONS_S = (5.0, 2.0, 1.0)
"""Clip lengths that go with ``BATCH_SIZES``, where the stem takes any length."""
TRACE_BATCH, TRACE_DURATION_S = 3, 1.0
TEXT_AXIS = "text_tokens"
"""Name of the axis of token ids: not that of sound's tokens, so that a graph may take both."""
_TOKENS_A_SECOND = 6
"""Of text, as it is spoken: clip lengths stand for text lengths too."""


def raw_input(spec: InputSpec, *, batch: int, duration_s: float, generator: torch.Generator) -> Tensor:
    """Waveforms ``(B, samples)`` in [-1, 1], pixels ``(B, 3, H, W)`` in 0-255, motion ``(B, channels, samples)``.

    Or token ids ``(B, N)`` int64, drawn from the whole vocabulary.
    """
    if isinstance(spec, AudioInput):
        samples = spec.fixed_samples or round(duration_s * SAMPLE_RATE_HZ)
        return sounds(batch, samples, generator)
    if isinstance(spec, MotionInput):
        return movements(batch, spec, generator)
    if isinstance(spec, TextInput):
        tokens = round(duration_s * _TOKENS_A_SECOND)
        return torch.randint(spec.vocabulary_size, (batch, tokens), generator=generator)
    return pictures(batch, spec.height, spec.width, generator)


def parity_inputs(spec: InputSpec, generator: torch.Generator) -> list[Tensor]:
    """One raw input per batch size; the longest clip goes with the smallest batch."""
    return [
        raw_input(spec, batch=batch, duration_s=duration_s, generator=generator)
        for batch, duration_s in zip(BATCH_SIZES, DURATIONS_S, strict=True)
    ]


def length_axis(spec: InputSpec) -> DynamicAxes:
    """The axis of a raw input that follows the length of a sound or text, if it has one."""
    if isinstance(spec, TextInput):
        return {1: TEXT_AXIS}
    stride = getattr(spec, "token_stride", None)
    return {1: f"{stride}*tokens"} if stride else {}


def sounds(batch: int, samples: int, generator: torch.Generator) -> Tensor:
    """Rising tones with an envelope over soft noise: ``(B, samples)``."""
    t = torch.arange(samples) / SAMPLE_RATE_HZ
    start, rate = (1000.0 * (torch.rand(2, batch, 1, generator=generator) + 0.2)).unbind(0)  # Hz, Hz/s
    tone = torch.sin(2 * math.pi * (start + rate * t / 2) * t) * (0.5 + 0.4 * torch.sin(2 * math.pi * 3 * t))
    return (0.6 * tone + 0.02 * torch.randn(batch, samples, generator=generator)).clamp(-1, 1)


def pictures(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A gradient, a bright disc and sensor noise: ``(B, 3, H, W)``."""
    y = torch.linspace(0, 1, height).view(-1, 1)
    x = torch.linspace(0, 1, width).view(1, -1)
    centre, colour = torch.rand(2, batch, 3, 1, 1, generator=generator).unbind(0)
    disc = ((y - centre) ** 2 + (x - 1 + centre) ** 2 < 0.05).float()
    shade: Tensor = 160 * (colour * x + (1 - colour) * y) + 80 * disc
    return (shade + 5 * torch.randn(batch, 3, height, width, generator=generator)).clamp(0, 255)


def movements(batch: int, spec: MotionInput, generator: torch.Generator) -> Tensor:
    """Swings of one to four a second in every channel, over sensor noise: ``(B, channels, samples)``."""
    t = torch.arange(spec.window_samples) / spec.rate_hz
    speed_hz = 1 + 3 * torch.rand(batch, 1, 1, generator=generator)
    phase, size = torch.rand(2, batch, spec.channels, 1, generator=generator).unbind(0)
    swing = size * torch.sin(2 * math.pi * (speed_hz * t + phase))
    noise = 0.1 * torch.randn(batch, spec.channels, spec.window_samples, generator=generator)
    mean, std = torch.tensor(spec.mean)[:, None], torch.tensor(spec.std)[:, None]
    moved: Tensor = mean + std * (swing + noise)
    return moved
