"""The same backbones in plain torch: the peer that tests and benchmarks compare a bundle with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl_edge.export.examples import TRACE_BATCH, TRACE_DURATION_S, raw_input
from mmcl_edge.export.plan import block_count
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.sources import DEFAULT, NONE, load_sources
from mmcl_edge.types import FeatureSpec, PoolSpec


class TorchBackbone(nn.Module):
    """A ``Backbone`` (``mmcl_edge.types``) whose segments are torch modules, cut exactly as the exporter cuts.

    Attention stays fused here: it is torch at its best, and frozen like the exported graphs.

    Args:
        source: the backbone.
        blocks: B.
    """

    modality: str
    pool: PoolSpec
    features: tuple[FeatureSpec, ...]
    output_features: FeatureSpec

    def __init__(self, source: SourceBackbone, blocks: int) -> None:
        super().__init__()
        self.modality, self.pool = source.modality, source.pool
        self._stem, self._output = source.stem, source.output
        self._segments = nn.ModuleList([module for _, module in source.segments(blocks)])
        self.features, self.output_features = self._trace(source)

    @torch.no_grad()
    def _trace(self, source: SourceBackbone) -> tuple[tuple[FeatureSpec, ...], FeatureSpec]:
        generator = torch.Generator().manual_seed(0)
        x = self.stem(raw_input(source.input, batch=TRACE_BATCH, duration_s=TRACE_DURATION_S, generator=generator))
        specs = [source.feature_spec(x)]
        for index in range(self.depth):
            x = self.segment(index, x)
            specs.append(source.feature_spec(x))
        return tuple(specs), source.feature_spec(self.output(x))

    @property
    def depth(self) -> int:
        """Number of segments."""
        return len(self._segments)

    def stem(self, x: Tensor) -> Tensor:
        """Raw input (as ``Backbone.stem`` takes it) to the first features."""
        y: Tensor = self._stem(x)
        return y

    def segment(self, index: int, x: Tensor) -> Tensor:
        """``features[index]`` to ``features[index + 1]``."""
        y: Tensor = self._segments[index](x)
        return y

    def output(self, x: Tensor) -> Tensor:
        """``features[depth]`` to ``output_features``, without pooling."""
        y: Tensor = self._output(x)
        return y


def torch_backbones(
    *,
    audio: str = DEFAULT,
    frames: str = DEFAULT,
    motion: str = NONE,
    text: str = NONE,
    blocks: int | None = None,
    untrained: bool = False,
) -> dict[str, TorchBackbone]:
    """What ``export_bundle`` with the same arguments exports, in torch, by modality.

    Raises:
        ExportError: a name cannot be served, or ``blocks`` does not fit.
        MissingExtraError: the package of a default's weights is not installed.
    """
    sources = load_sources(audio=audio, frames=frames, motion=motion, text=text, untrained=untrained)
    count = block_count((source.depth for source in sources), blocks)
    return {source.modality: TorchBackbone(source, count) for source in sources}
