"""Small torch backbones for tests of the trainable part: real arithmetic, no files."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mmcl_edge.adapters.inputs import Item, ItemInput
from mmcl_edge.types import FeatureSpec, PoolSpec, Sample

TOKEN_STRIDE = 40


class TokenBackbone:
    """Sound: every 40 samples become a token of width ``dim``; segments are frozen two-layer perceptrons."""

    def __init__(self, dim: int = 12, depth: int = 3, seed: int = 1) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._stem = nn.Linear(TOKEN_STRIDE, dim).requires_grad_(False)
            self._blocks = [nn.Sequential(nn.Linear(dim, dim), nn.Tanh()).requires_grad_(False) for _ in range(depth)]
        self.modality = "audio"
        self.features = tuple(FeatureSpec(kind="tokens", dim=dim) for _ in range(depth + 1))
        self.output_features = self.features[-1]
        self.pool = PoolSpec()

    @property
    def depth(self) -> int:
        return len(self._blocks)

    def stem(self, x: Tensor) -> Tensor:
        return self._stem(x.unflatten(1, (-1, TOKEN_STRIDE)))

    def segment(self, index: int, x: Tensor) -> Tensor:
        return x + self._blocks[index](x)

    def output(self, x: Tensor) -> Tensor:
        return x


class MapBackbone:
    """Frames: convolutions over 16 x 16 pixels whose maps shrink block by block."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8, 10), seed: int = 2) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._stem = nn.Conv2d(3, widths[0], 1).requires_grad_(False)
            self._blocks = [
                nn.Conv2d(a, b, 3, stride=2 if i == 1 else 1, padding=1).requires_grad_(False)
                for i, (a, b) in enumerate(pairwise(widths))
            ]
        sizes = [16, 16, 8, 8]
        self.modality = "frames"
        self.features = tuple(
            FeatureSpec(kind="map", dim=w, height=s, width=s) for w, s in zip(widths, sizes, strict=True)
        )
        self.output_features = self.features[-1]
        self.pool = PoolSpec()

    @property
    def depth(self) -> int:
        return len(self._blocks)

    def stem(self, x: Tensor) -> Tensor:
        return self._stem(x / 255.0)

    def segment(self, index: int, x: Tensor) -> Tensor:
        return torch.tanh(self._blocks[index](x))

    def output(self, x: Tensor) -> Tensor:
        return x


def backbones() -> dict[str, TokenBackbone | MapBackbone]:
    return {"audio": TokenBackbone(), "frames": MapBackbone()}


def preprocess(sample: Sample) -> Item:
    """As the runtime's preprocessor: pad sound to whole quarters of 800 samples, frames as they are."""
    item: Item = {}
    if sample.audio is not None:
        padded = -(-len(sample.audio) // 200) * 200
        values = torch.zeros(1, padded)
        values[0, : len(sample.audio)] = torch.from_numpy(sample.audio)
        tokens = -(-len(sample.audio) // TOKEN_STRIDE)
        item["audio"] = ItemInput(values, tokens=tokens, total_tokens=padded // TOKEN_STRIDE)
    if sample.frames is not None:
        item["frames"] = ItemInput(torch.from_numpy(sample.frames).permute(0, 3, 1, 2).float())
    return item
