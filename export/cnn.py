"""Cuts timm's convolutional networks into stem, stages and output.

Two shapes are known: EfficientNet and MobileNet kin (``conv_stem, bn1, blocks, conv_head, bn2``) and ResNet kin
(``conv1, bn1, act1, maxpool, layer1..4``). Both end in a map; the mean over positions is their own pooling.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mmcl_edge.errors import ExportError
from mmcl_edge.types import PoolSpec


@dataclass(frozen=True, eq=False)
class Parts:
    """A network without its classifier: features go through ``stem``, every layer, then ``output``."""

    stem: nn.Module
    layers: tuple[tuple[str, nn.Module], ...]
    output: nn.Module
    pool: PoolSpec


def is_cnn(model: nn.Module) -> bool:
    """Whether ``split_cnn`` knows the model's shape."""
    return _is_efficientnet(model) or _is_resnet(model)


def split_cnn(model: nn.Module, *, name: str) -> Parts:
    """Stem, stages and output of a timm CNN.

    Raises:
        ExportError: the family is not one of the two.
    """
    if _is_efficientnet(model):
        return _split_efficientnet(model)
    if _is_resnet(model):
        return _split_resnet(model)
    raise ExportError(
        f"{name} is of the family {type(model).__name__}; the exporter takes ViTs, EfficientNet or MobileNet kin "
        "and ResNet kin. Choose a model of one of these."
    )


def _is_efficientnet(model: nn.Module) -> bool:
    return all(isinstance(getattr(model, part, None), nn.Module) for part in ("conv_stem", "bn1", "blocks"))


def _is_resnet(model: nn.Module) -> bool:
    return all(isinstance(getattr(model, part, None), nn.Module) for part in ("conv1", "bn1", "layer1", "layer4"))


def _split_efficientnet(model: nn.Module) -> Parts:
    stem = nn.Sequential(*_present(model, "conv_stem", "bn1"))
    stages = model.get_submodule("blocks").named_children()
    # MobileNetV3 pools before its head convolution: its last map is the output, the head is a classifier's part.
    head = () if _pools_before_head(model) else _present(model, "conv_head", "bn2")
    return Parts(stem, tuple((f"blocks.{key}", stage) for key, stage in stages), nn.Sequential(*head), PoolSpec())


def _split_resnet(model: nn.Module) -> Parts:
    stem = nn.Sequential(*_present(model, "conv1", "bn1", "act1", "maxpool"))
    names = [f"layer{i}" for i in range(1, 5)]
    return Parts(stem, tuple((name, model.get_submodule(name)) for name in names), nn.Sequential(), PoolSpec())


def _pools_before_head(model: nn.Module) -> bool:
    order = [name for name, _ in model.named_children()]
    return "global_pool" in order and "conv_head" in order and order.index("global_pool") < order.index("conv_head")


def _present(model: nn.Module, *names: str) -> list[nn.Module]:
    return [getattr(model, name) for name in names if isinstance(getattr(model, name, None), nn.Module)]
