"""Gradient formulas for tracing: those of torch's core set, and ours where a frozen network or ONNX wants another.

Weights are frozen, so every formula gives the gradient of its operation's input alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operation to the function that spells it out."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.avg_pool2d_backward.default] = avg_pool2d_backward
    table[aten.hardtanh_backward.default] = hardtanh_backward
    table[aten.native_layer_norm_backward.default] = layer_norm_backward
    table[aten.slice_backward.default] = slice_backward
    table[aten.select_backward.default] = select_backward
    return table


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """Gradient of a convolution's input; weights are frozen and get none.

    With stride 1 it is a plain convolution with mirrored weights (which runtimes do fast),
    otherwise a transposed convolution.
    """
    if not mask[0]:
        return None, None, None
    if transposed:
        raise NotImplementedError("the input gradient of a transposed convolution is not needed by any known backbone")
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    mirrored_padding = [r - p for r, p in zip(reach, padding, strict=True)]
    if all(s == 1 for s in stride) and min(mirrored_padding) >= 0:
        mirrored = _mirror(weight, groups)
        return (
            aten.convolution(
                grad, mirrored, None, stride, mirrored_padding, dilation, False, [0] * len(stride), groups
            ),
            None,
            None,
        )
    extra = [
        n - ((m - 1) * s - 2 * p + r + 1)
        for n, m, s, p, r in zip(x.shape[2:], grad.shape[2:], stride, padding, reach, strict=True)
    ]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups), None, None


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """Gradient of an average over windows: a transposed convolution with equal weights, channel by channel."""
    stride = stride or kernel
    rest = [n + 2 * p - k for n, p, k in zip(x.shape[2:], padding, kernel, strict=True)]
    overhangs = ceil_mode and any(r % s for r, s in zip(rest, stride, strict=True))
    if overhangs or (any(padding) and not count_include_pad):
        raise NotImplementedError("average pooling whose windows differ in size has no traced gradient")
    channels = x.shape[1]
    weight = grad.new_full((channels, 1, *kernel), 1.0 / (divisor or math.prod(kernel)))
    extra = [r % s for r, s in zip(rest, stride, strict=True)]
    spread: Tensor = aten.convolution(grad, weight, None, stride, padding, [1, 1], True, extra, channels)
    return spread


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """``grad`` where ``x`` lies strictly between the bounds; told from the clamped ``x``, which is at hand anyway."""
    y = aten.hardtanh(x, low, high)
    return torch.where((y > low) & (y < high), grad, 0.0)


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Gradient of a layer norm's input: ``rstd (h - mean(h) - z mean(h z))``, ``h = grad weight``, z normalised x."""
    axes = list(range(x.dim() - len(shape), x.dim()))
    h = grad if weight is None else grad * weight
    z = (x - mean) * rstd
    return (h - h.mean(axes, keepdim=True) - z * (h * z).mean(axes, keepdim=True)) * rstd, None, None


def slice_backward(grad: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    """Gradient of ``x[start:end]`` along ``dim``: zeros on both sides (torch's own needs known sizes)."""
    if step != 1:
        raise NotImplementedError("the gradient of a slice with steps is not needed by any known backbone")
    before = start if start >= 0 else start + sizes[dim]
    pads = [0, 0] * (grad.dim() - 1 - dim % grad.dim()) + [before, sizes[dim] - before - grad.shape[dim]]
    padded: Tensor = aten.constant_pad_nd(grad, pads)
    return padded


def select_backward(grad: Tensor, sizes: Sequence[int], dim: int, index: int) -> Tensor:
    """Gradient of ``x[index]`` along ``dim``: zeros elsewhere."""
    index = index % sizes[dim]
    return slice_backward(grad.unsqueeze(dim), sizes, dim % len(sizes), index, index + 1, 1)


def _mirror(weight: Tensor, groups: int) -> Tensor:
    """``(out, in/g, kh, kw)`` to the kernel of the input gradient ``(in, out/g, kh, kw)``, taps reversed."""
    out, inner, *taps = weight.shape
    grouped = weight.reshape(groups, out // groups, inner, *taps).transpose(1, 2)
    return grouped.reshape(groups * inner, out // groups, *taps).flip(list(range(2, weight.dim())))
