"""Long sounds and long motion cut to the part that counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, Sample

_STEP_S = 0.1


def clipped(sample: Sample, clip_s: float) -> Sample:
    """The sample with its sound cut to the loudest window of ``clip_s`` seconds (in steps of 0.1 s).

    Motion is cut to the same seconds; without a sound that needs cutting, to the window in which most moves.
    """
    start_s = None
    if sample.audio is not None and len(sample.audio) > round(clip_s * SAMPLE_RATE_HZ):
        start_s = _fullest(np.square(sample.audio, dtype=np.float64), clip_s, SAMPLE_RATE_HZ)
        sample = replace(sample, audio=_cut(sample.audio, start_s, clip_s, SAMPLE_RATE_HZ))
    if sample.motion is not None and len(sample.motion) > round(clip_s * MOTION_RATE_HZ):
        if start_s is None:
            start_s = _fullest(_stir(sample.motion), clip_s, MOTION_RATE_HZ)
        latest_s = len(sample.motion) / MOTION_RATE_HZ - clip_s
        sample = replace(sample, motion=_cut(sample.motion, min(start_s, latest_s), clip_s, MOTION_RATE_HZ))
    return sample


def _fullest(power: NDArray[np.float64], clip_s: float, rate_hz: int) -> float:
    """Start in seconds of the window with the greatest sum of ``power`` ``(samples,)``."""
    size = round(clip_s * rate_hz)
    total = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(power) - size + 1, round(_STEP_S * rate_hz))
    return float(starts[np.argmax(total[starts + size] - total[starts])]) / rate_hz


def _stir(motion: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much moves at each reading: squared distance from the mean, each channel in its own spread ``(samples,)``."""
    spread = motion.std(axis=0, dtype=np.float64)
    centred = motion - motion.mean(axis=0, dtype=np.float64)
    moved: NDArray[np.float64] = np.square(centred / np.where(spread > 0, spread, 1.0)).sum(axis=1)
    return moved


def _cut(values: NDArray[np.float32], start_s: float, clip_s: float, rate_hz: int) -> NDArray[np.float32]:
    start = round(start_s * rate_hz)
    return values[start : start + round(clip_s * rate_hz)].copy()
