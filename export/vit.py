"""Cuts timm's vision transformers into stem, layers and output."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmcl_edge.errors import ExportError
from mmcl_edge.export.cnn import Parts
from mmcl_edge.types import PoolSpec


class ViTStem(nn.Module):
    """Patches, prefix tokens and positions: ``(B, C, H, W)`` to ``(B, N, D)``."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The first features, prefix tokens in front."""
        model = self.model
        tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        return tokens


class ViTOutput(nn.Module):
    """Final norms per token, then the tokens ``first`` and after: ``(B, N, D)`` to ``(B, N - first, D)``."""

    def __init__(self, norm: nn.Module, fc_norm: nn.Module, first: int) -> None:
        super().__init__()
        self.norm, self.fc_norm, self.first = norm, fc_norm, first

    def forward(self, x: Tensor) -> Tensor:
        """The tokens that pooling may read."""
        out: Tensor = self.fc_norm(self.norm(x))
        return out[:, self.first :] if self.first else out


def split_vit(model: VisionTransformer, *, name: str) -> Parts:
    """Stem, layers and output of a timm ViT; the model is taken apart and must not be used afterwards.

    Pooling follows the model: ``token`` reads the prefix tokens that carry a class, ``avg`` the mean over patches.
    A norm that the model applies after pooling is applied to each token before it. Attention pooling (``map``)
    belongs to the model's classifier; the mean over patches stands in for it.

    Raises:
        ExportError: the model pools in a way that has no counterpart.
    """
    first, pool = _pooling(model, name)
    layers = tuple((f"blocks.{key}", layer) for key, layer in model.blocks.named_children())
    output = ViTOutput(model.norm, model.fc_norm, first)
    for taken in ("blocks", "norm", "fc_norm", "head", "attn_pool"):
        setattr(model, taken, None)
    return Parts(ViTStem(model), layers, output, pool)


def _pooling(model: VisionTransformer, name: str) -> tuple[int, PoolSpec]:
    if model.global_pool == "token":
        return 0, PoolSpec(kind="prefix", prefix_tokens=2 if hasattr(model, "dist_token") else 1)
    if model.global_pool in ("avg", "map", ""):
        return model.num_prefix_tokens, PoolSpec(kind="mean")
    raise ExportError(
        f"{name} pools its tokens by {model.global_pool!r}; the exporter knows 'token', 'avg' and 'map'. "
        "Choose another model."
    )
