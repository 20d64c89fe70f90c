"""What stands before an image backbone: normalised pixels, or a sound turned into a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
