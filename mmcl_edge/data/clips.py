"""Long sounds cut to the part that counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmcl_edge.types import SAMPLE_RATE_HZ, Sample


def clipped(sample: Sample, clip_s: float) -> Sample:
    """The sample with its sound cut to the loudest window of ``clip_s`` seconds (in steps of 0.1 s)."""
    size = round(clip_s * SAMPLE_RATE_HZ)
    if sample.audio is None or len(sample.audio) <= size:
        return sample
    power = np.concatenate([[0.0], np.cumsum(np.square(sample.audio, dtype=np.float64))])
    starts = np.arange(0, len(sample.audio) - size + 1, SAMPLE_RATE_HZ // 10)
    start = int(starts[np.argmax(power[starts + size] - power[starts])])
    return replace(sample, audio=sample.audio[start : start + size].copy())
