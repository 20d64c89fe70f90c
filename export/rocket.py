"""A backbone for motion that has nothing to download: random convolution kernels.

After ROCKET (A. Dempster, F. Petitjean, G. I. Webb: ROCKET: exceptionally fast and accurate time series classification
using random convolutional kernels, Data Mining and Knowledge Discovery 34, 2020). Kept from it: kernels drawn from N(0,
1) and centred, biases from U(-1, 1), several dilations, and two numbers a kernel, the share of positive values and the
maximum. Ours: the numbers are taken over tokens of a tenth of a second instead of the whole series, the share is smooth
(a sigmoid counts, so that gradients pass), one bank is not centred (so that the direction of gravity is seen), and
further layers of dilated kernels stand above the first, so that there are blocks to put adapters between. Everything
follows from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl_edge.bundle import MotionInput, WeightsOrigin
from mmcl_edge.data.readers.uestc_mmea import ANGLE_MEAN, ANGLE_STD, G_MEAN, G_STD
from mmcl_edge.errors import ExportError
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.types import MOTION, MOTION_RATE_HZ, PoolSpec

WINDOW_S, SAMPLES_PER_TOKEN = 5.0, 5
TAPS = 7
DILATIONS = (1, 2, 4)
DEPTH = 12
KERNELS = 12
"""Of each bank of the stem: three dilations, and one that sees the level."""
SHARPNESS = 4.0
"""Slope of the sigmoid that counts positive values."""
STEP = 0.5
"""Weight of what a layer adds."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and spread of each channel, in the sensor's unit."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


SCALES = {
    "g_dps": Scale(mean=(0.0,) * 6, std=(1.0, 1.0, 1.0, 100.0, 100.0, 100.0)),
    "uestc_mmea": Scale(mean=(*G_MEAN, *ANGLE_MEAN), std=(*G_STD, *ANGLE_STD)),
}
"""``g_dps``: three axes of acceleration in g, then three of turning in degrees a second."""


def load_rocket(name: str = "rocket") -> SourceBackbone:
    """The backbone that ``rocket`` or ``rocket:SCALE`` names.

    Raises:
        ExportError: another name.
    """
    kind, _, scale = name.partition(":")
    scale = scale or "g_dps"
    if kind != "rocket" or scale not in SCALES:
        known = ", ".join(["rocket", *(f"rocket:{one}" for one in SCALES)])
        raise ExportError(f"Expected one of the motion backbones {known} or none, but {name!r} was asked for.")
    return rocket(SCALES[scale], name="rocket" if scale == "g_dps" else f"rocket-{scale}")


def rocket(
    scale: Scale,
    *,
    name: str = "rocket",
    seed: int = 0,
    window_s: float = WINDOW_S,
    kernels: int = KERNELS,
    depth: int = DEPTH,
) -> SourceBackbone:
    """Random kernels for motion of ``scale``.

    Args:
        scale: of the readings; there are as many channels as it has numbers.
        name: what the manifest calls it.
        seed: of all kernels.
        window_s: seconds of motion that the stem takes.
        kernels: of each of the stem's four banks; features are eight times as wide.
        depth: layers above the stem.
    """
    draw = torch.Generator().manual_seed(seed)
    spec = MotionInput(
        channels=len(scale.mean),
        rate_hz=MOTION_RATE_HZ,
        window_s=window_s,
        mean=scale.mean,
        std=scale.std,
        samples_per_token=SAMPLES_PER_TOKEN,
    )
    stem = RocketStem(spec, kernels, draw)
    layers = tuple((f"layers.{i}", RocketLayer(stem.width, DILATIONS[i % len(DILATIONS)], draw)) for i in range(depth))
    norm = nn.LayerNorm(stem.width)
    origin = WeightsOrigin(
        source=f"random kernels, seed {seed}", licence="Apache-2.0", trained=False, random_by_design=True
    )
    return SourceBackbone(MOTION, name, spec, stem, layers, norm, PoolSpec(), origin)


def random_kernels(outputs: int, inputs: int, draw: torch.Generator, *, centred: bool = True) -> Tensor:
    """Kernels ``(outputs, inputs, taps)`` from N(0, 1), centred over taps if wanted, scaled to keep a signal's size."""
    weight = torch.randn(outputs, inputs, TAPS, generator=draw)
    if centred:
        weight = weight - weight.mean(dim=2, keepdim=True)
    scaled: Tensor = weight / (inputs * TAPS) ** 0.5
    return scaled


class RocketStem(nn.Module):
    """Motion ``(B, channels, samples)`` to tokens ``(B, N, D)``: each kernel's share of positive values and maximum."""

    mean: Tensor
    factor: Tensor

    def __init__(self, spec: MotionInput, kernels: int, draw: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None])
        self.register_buffer("factor", 1.0 / torch.tensor(spec.std)[:, None])
        self.span = spec.samples_per_token
        plans = [(dilation, True) for dilation in DILATIONS] + [(1, False)]
        self.width = 2 * kernels * len(plans)
        self.banks = nn.ModuleList([_bank(spec.channels, kernels, dilation, c, draw) for dilation, c in plans])

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of ``samples_per_token`` readings each."""
        x = (x - self.mean) * self.factor
        y = torch.cat([bank(x) for bank in self.banks], dim=1)  # (B, D/2, samples)
        share = F.avg_pool1d(torch.sigmoid(SHARPNESS * y), self.span)
        return torch.cat([share, F.max_pool1d(y, self.span)], dim=1).transpose(1, 2)


class RocketLayer(nn.Module):
    """``x + STEP (2 sigmoid(SHARPNESS conv(norm(x))) - 1)``: ``(B, N, D)`` to ``(B, N, D)``, kernels over tokens."""

    def __init__(self, width: int, dilation: int, draw: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = _bank(width, width, dilation, False, draw)

    def forward(self, x: Tensor) -> Tensor:
        """Kernels reach ``3 dilation`` tokens to either side."""
        y = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + STEP * torch.tanh(SHARPNESS / 2 * y)  # 2 sigmoid(s y) - 1 = tanh(s y / 2)
        return out


def _bank(inputs: int, outputs: int, dilation: int, centred: bool, draw: torch.Generator) -> nn.Conv1d:
    conv = nn.Conv1d(inputs, outputs, TAPS, padding=dilation * (TAPS // 2), dilation=dilation)
    with torch.no_grad():
        conv.weight.copy_(random_kernels(outputs, inputs, draw, centred=centred))
        assert conv.bias is not None
        conv.bias.copy_(2 * torch.rand(outputs, generator=draw) - 1)
    return conv
