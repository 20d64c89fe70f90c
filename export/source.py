"""A backbone in torch, as the exporter sees it: stem, ordered layers, output, and what the manifest says of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from mmcl_edge.bundle import AudioInput, InputSpec, TextInput, WeightsOrigin
from mmcl_edge.export.plan import layer_ranges
from mmcl_edge.types import FeatureSpec, PoolSpec


@runtime_checkable
class FrontEnd(Protocol):
    """A sound front end that knows torchaudio's own answer to the same question."""

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Features of waveform ``(B, samples)``, by real arithmetic only."""
        ...

    def reference(self, waveform: torch.Tensor) -> torch.Tensor:
        """The same features as torchaudio computes them."""
        ...


@dataclass(frozen=True, eq=False)
class SourceBackbone:
    """A frozen torch backbone before it is cut into segments.

    Attributes:
        modality: ``audio``, ``frames``, ``motion`` or ``text``.
        name: what the manifest calls it.
        input: what the stem takes.
        stem: raw input to the first features.
        layers: names and modules, in order; each maps features to features.
        output: last norm or convolution, without pooling.
        pool: how output features become one vector.
        origin: where the weights come from.
        front_end: the sound front end inside ``stem``, or ``None``.
        files: what the bundle shall hold beside the graphs, by path: a text backbone's vocabulary.
    """

    modality: str
    name: str
    input: InputSpec
    stem: nn.Module
    layers: tuple[tuple[str, nn.Module], ...]
    output: nn.Module
    pool: PoolSpec
    origin: WeightsOrigin
    front_end: FrontEnd | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for module in (self.stem, self.output, *(layer for _, layer in self.layers)):
            module.eval().requires_grad_(False)

    @property
    def depth(self) -> int:
        """Number of layers that blocks can be made of."""
        return len(self.layers)

    @property
    def token_axis_is_dynamic(self) -> bool:
        """Whether the number of tokens follows the clip's or the text's length."""
        if isinstance(self.input, AudioInput):
            return self.input.fixed_samples is None
        return isinstance(self.input, TextInput)

    def segments(self, blocks: int) -> tuple[tuple[tuple[str, ...], nn.Sequential], ...]:
        """Layer names and module of each of ``blocks`` segments (shared weights, no copies)."""
        return tuple(
            (tuple(self.layers[i][0] for i in chosen), nn.Sequential(*(self.layers[i][1] for i in chosen)))
            for chosen in layer_ranges(self.depth, blocks)
        )

    def feature_spec(self, features: torch.Tensor) -> FeatureSpec:
        """The spec of an actual feature tensor: ``(B, N, D)`` tokens or a ``(B, C, H, W)`` map."""
        if features.dim() == 4:
            _, channels, height, width = features.shape
            return FeatureSpec(kind="map", dim=channels, height=height, width=width)
        _, tokens, dim = features.shape
        return FeatureSpec(kind="tokens", dim=dim, tokens=None if self.token_axis_is_dynamic else tokens)


def traceable(module: nn.Module) -> nn.Module:
    """A copy that can be traced: attention spelled out as products and softmax, activations not in place."""
    clone = copy.deepcopy(module)
    for part in clone.modules():
        for option in ("fused_attn", "inplace"):
            if hasattr(part, option):
                setattr(part, option, False)
    return clone
