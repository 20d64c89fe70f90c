"""What stands before an image backbone: normalised pixels, or a sound turned into a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl_edge.export.frontend import FRAME_SAMPLES, HOP_SAMPLES, KaldiFbank


class NormalisePixels(nn.Module):
    """Pixels 0-255 ``(B, 3, H, W)`` to ``(x - mean) / std``, mean and std per channel on the 0-255 scale."""

    mean: Tensor
    factor: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("factor", 1.0 / torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to the same shape."""
        return (x - self.mean) * self.factor


class SpectrogramImage(nn.Module):
    """Waveform ``(B, samples)`` to a one-channel picture ``(B, 1, H, W)`` of its log-mel energies.

    Args:
        fbank: the front end, ``(B, samples)`` to ``(B, frames, mels)``.
        size: height and width of the picture; time runs down, as AudioMAE and AST have it. Energies are
            resized to it (bilinear) where the sizes differ.
    """

    MEAN, STD = -4.2677393, 4.5689974
    """Of AudioSet's log-mel energies; models expect ``(x - MEAN) / (2 STD)``."""

    def __init__(self, fbank: KaldiFbank, size: tuple[int, int]) -> None:
        super().__init__()
        self.fbank, self.size = fbank, size

    def forward(self, waveform: Tensor) -> Tensor:
        """The picture, in the scale that spectrogram transformers are trained on."""
        x: Tensor = ((self.fbank(waveform) - self.MEAN) / (2 * self.STD)).unsqueeze(1)  # (B, 1, frames, mels)
        if tuple(x.shape[2:]) == self.size:
            return x
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)


def samples_for(frames: int) -> int:
    """Samples that give exactly so many frames of the Kaldi front end."""
    return FRAME_SAMPLES + (frames - 1) * HOP_SAMPLES
