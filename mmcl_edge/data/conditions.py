"""Test conditions: what may be wrong with a sample when it is met, each the same for the same sample every time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from mmcl_edge.types import Sample

NOISE_SNR_DB = 5.0
"""Signal to noise ratio of ``noise_5db``."""
BLUR_SHARE = 1.5 / 64
"""Standard deviation of ``blur`` as a share of a picture's height: 1.5 pixels of 64."""

Condition = Callable[[Sample], Sample]


def audio_only(sample: Sample) -> Sample:
    """The sound alone; a sample without sound is left as it is."""
    return sample if sample.audio is None else replace(sample, frames=None)


def frames_only(sample: Sample) -> Sample:
    """The pictures alone; a sample without pictures is left as it is."""
    return sample if sample.frames is None else replace(sample, audio=None)


def noise_5db(sample: Sample) -> Sample:
    """White Gaussian noise 5 dB below the sound's power; its numbers follow from the sound."""
    if sample.audio is None:
        return sample
    seed = int.from_bytes(hashlib.sha256(sample.audio.tobytes()).digest()[:8], "little")
    power = float(np.mean(np.square(sample.audio, dtype=np.float64)))
    scale = (power / 10 ** (NOISE_SNR_DB / 10)) ** 0.5
    noise = np.random.default_rng(seed).normal(0.0, scale, len(sample.audio))
    return replace(sample, audio=(sample.audio + noise).clip(-1, 1).astype(np.float32))


def blur(sample: Sample) -> Sample:
    """Gaussian blur of every frame, wide for its height."""
    if sample.frames is None:
        return sample
    pixels = torch.from_numpy(np.ascontiguousarray(sample.frames)).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
    sigma = BLUR_SHARE * pixels.shape[2]
    reach = max(1, min(round(3 * sigma), min(pixels.shape[2:]) - 1))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = functional.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(padded, kernel, groups=3)
    done = functional.conv2d(rows, kernel.transpose(2, 3), groups=3)
    return replace(sample, frames=done.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy())


CONDITIONS: dict[str, Condition] = {
    "audio_only": audio_only,
    "frames_only": frames_only,
    "noise_5db": noise_5db,
    "blur": blur,
}
"""Name to what it does to a test sample; beside them the benchmark measures clean ones."""
