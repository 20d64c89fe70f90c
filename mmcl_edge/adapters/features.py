"""Maps and tokens: adapters always see tokens; deltas fold back to what the backbone uses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.types import FeatureSpec, PoolSpec


def grid_of(spec: FeatureSpec, limit: int) -> tuple[int, int]:
    """Rows and columns of tokens that a map of ``spec`` is pooled to: at most ``limit`` each way."""
    assert spec.height is not None
    assert spec.width is not None
    return min(spec.height, limit), min(spec.width, limit)


def to_tokens(x: Tensor, views: int, *, grid: tuple[int, int] | None) -> Tensor:
    """Features of all views as one token sequence a sample.

    Args:
        x: ``(B*T, N, D)`` tokens or ``(B*T, D, H, W)`` map.
        views: T.
        grid: for maps, rows and columns to pool to.

    Returns:
        ``(B, T*N, D)``.
    """
    if x.ndim == 4:
        assert grid is not None
        x = pool_map(x, grid).flatten(2).transpose(1, 2)  # (B*T, N, D)
    return x.reshape(x.shape[0] // views, views * x.shape[1], x.shape[2])


def pool_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average a map ``(B, D, H, W)`` to ``(B, D, *grid)``; the plain kernel where sizes divide (it is faster)."""
    height, width = x.shape[-2:]
    if (height, width) == grid:
        return x
    if height % grid[0] == 0 and width % grid[1] == 0:
        return functional.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return functional.adaptive_avg_pool2d(x, grid)


def add_delta(x: Tensor, delta: Tensor, *, grid: tuple[int, int] | None, overwrite: bool = True) -> Tensor:
    """Features plus a token delta, the inverse of ``to_tokens``.

    Args:
        x: ``(B*T, N, D)`` tokens or ``(B*T, D, H, W)`` map.
        delta: ``(B, T*N, D)``; for maps N is the number of grid cells, and every pixel of a cell gets its delta.
        grid: for maps, rows and columns of tokens.
        overwrite: ``x`` is fresh from a segment: overwrite it where no gradient is to flow into it.

    Returns:
        The shape of ``x``.
    """
    x = x if overwrite or x.requires_grad else x.clone()
    if x.ndim == 3:
        return _plus(x, delta.reshape(x.shape))
    assert grid is not None
    rows, columns = grid
    batch, dim, height, width = x.shape
    small = delta.reshape(batch, rows * columns, dim).transpose(1, 2).reshape(batch, dim, rows, columns)
    if height % rows or width % columns:
        return _plus(x, functional.interpolate(small, size=(height, width), mode="nearest"))
    wide = _widened(small, width // columns)  # whole rows: the addition's inner loop stays long
    strips = x.view(batch, dim, rows, height // rows, width)
    return _plus(strips, wide[:, :, :, None]).view(x.shape)


def _widened(x: Tensor, times: int) -> Tensor:
    """Every column ``times`` times, ``(B, D, rows, columns)`` to ``(B, D, rows, columns * times)``."""
    if not torch.compiler.is_exporting():
        return x.repeat_interleave(times, dim=3)
    columns = x.shape[3]
    return x @ torch.eye(columns).repeat_interleave(times, dim=1)  # exact, and ONNX Runtime expands slowly


def _plus(x: Tensor, delta: Tensor) -> Tensor:
    return x + delta if x.requires_grad else x.add_(delta)


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the valid tokens, all without a mask: ``(B, N, D)``, ``(B, N)`` bool to ``(B, D)``; zero if none is."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask.to(tokens.dtype)
    total = torch.bmm(weights[:, None, :], tokens)[:, 0]  # (B, D)
    return total / weights.sum(dim=1, keepdim=True).clamp_min(1.0)


def masked_max(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Maximum over the valid tokens: ``(B, N, D)``, ``(B, N)`` bool to ``(B, D)``; zero if none is."""
    if mask is None:
        return tokens.amax(dim=1)
    found = tokens.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
    return found.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def pool(tokens: Tensor, mask: Tensor | None, *, spec: PoolSpec, views: int) -> Tensor:
    """Output tokens ``(B, T*N, D)`` to one vector a sample ``(B, D)``, by the backbone's own rule."""
    if spec.kind == "prefix":
        batch, length, dim = tokens.shape
        tokens = tokens.view(batch, views, length // views, dim)[:, :, : spec.prefix_tokens].reshape(batch, -1, dim)
        if mask is not None:
            mask = mask.view(batch, views, length // views)[:, :, : spec.prefix_tokens].reshape(batch, -1)
    return masked_mean(tokens, mask)


def resample_tokens(tokens: Tensor, mask: Tensor, count: int) -> Tensor:
    """Average each sample's valid tokens to exactly ``count``: ``(B, N, D)``, ``(B, N)`` to ``(B, count, D)``.

    Bin ``p`` of a sample with ``n`` valid tokens (a prefix of the sequence) covers tokens
    ``floor(p n / count)`` to ``ceil((p + 1) n / count)``, as adaptive average pooling does.
    """
    lengths = mask.sum(dim=1).clamp_min(1)  # (B,)
    bins = torch.arange(count, device=tokens.device)
    start = (bins[None] * lengths[:, None]) // count  # (B, P)
    end = ((bins[None] + 1) * lengths[:, None] + count - 1) // count
    position = torch.arange(tokens.shape[1], device=tokens.device)
    inside = (position >= start[..., None]) & (position < end[..., None])  # (B, P, N)
    weights = inside.to(tokens.dtype)
    return torch.bmm(weights / weights.sum(dim=-1, keepdim=True), tokens)
