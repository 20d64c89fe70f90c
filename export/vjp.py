"""The vector-Jacobian product of a segment as one graph of core operations.

``autograd.grad(segment(x), x, g)`` is traced with symbolic batch (and token) sizes. Every backward formula is
decomposed into operations that ONNX has; the input gradient of a convolution becomes a convolution again, and
whatever depends on weights alone is computed here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from mmcl_edge.export.products import product, whole_products

aten = torch.ops.aten
DynamicAxes = dict[int, str]
"""Axis to name of the axes that vary, for example ``{0: "batch", 1: "tokens"}``; ``6*batch`` is a multiple."""


def trace_joint(segment: nn.Module, x: Tensor, axes: DynamicAxes) -> fx.GraphModule:
    """Graph ``(x, g) -> (y, gx)`` with ``y = segment(x)`` and ``gx = g^T dy/dx``.

    Args:
        segment: frozen, without fused attention.
        x: an example of its input; only its shape counts.
        axes: axes of ``x`` that vary.
    """
    with torch.no_grad():
        g = torch.zeros_like(segment(x))

    def joint(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), whole_products():
            y = segment(x)
        (gx,) = torch.autograd.grad(y, x, g)
        return y.detach(), gx

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with mode, enable_python_dispatcher():
        inputs = [_symbolic(tensor, axes, mode) for tensor in (x, g)]
        graph = make_fx(joint, decomposition_table=_decompositions(), tracing_mode="real")(*inputs)
    _drop_detach(graph)
    _name_products(graph)
    fold_constants(graph)
    return graph


def only_outputs(joint: fx.GraphModule, keep: Sequence[int]) -> fx.GraphModule:
    """A copy of ``joint`` that returns the chosen outputs and computes nothing else."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(joint.graph, values)
    assert isinstance(outputs, tuple | list)
    chosen = tuple(outputs[i] for i in keep)
    graph.output(chosen[0] if len(chosen) == 1 else chosen)
    graph.eliminate_dead_code()
    return fx.GraphModule(joint, graph)


def _symbolic(tensor: Tensor, axes: DynamicAxes, mode: FakeTensorMode) -> Tensor:
    """A fake tensor in which only ``axes`` are symbolic; equal sizes of one axis share their symbol."""
    sizes = [DimDynamic.DUCK if axis in axes else DimDynamic.STATIC for axis in range(tensor.dim())]
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _decompositions() -> dict[Any, Callable[..., Any]]:
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
            aten.convolution(grad, mirrored, None, stride, mirrored_padding, dilation, False, [0, 0], groups),
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


def _drop_detach(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def _name_products(module: fx.GraphModule) -> None:
    """Give whole products the name that exporters know them by."""
    for node in module.graph.nodes:
        if node.target is product:
            node.target = aten.matmul.default


def fold_constants(module: fx.GraphModule) -> None:
    """Replace every operation whose tensors are all weights by its value, in place.

    A transposed matrix stays an operation, so that a weight that is used both ways is stored once.
    """
    for node in list(module.graph.nodes):
        inputs = node.all_input_nodes
        if _is_transpose(node):
            if _is_transpose(inputs[0]):
                node.replace_all_uses_with(inputs[0].all_input_nodes[0])
        elif node.op == "call_function" and inputs and all(n.op == "get_attr" for n in inputs):
            _replace_by_value(module, node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _is_transpose(node: fx.Node) -> bool:
    """Whether the node is a weight matrix, transposed (once or again)."""
    if node.target is not aten.permute.default or list(cast(Sequence[int], node.args[1])) != [1, 0]:
        return False
    source = node.all_input_nodes[0]
    return source.op == "get_attr" or _is_transpose(source)


def _replace_by_value(module: fx.GraphModule, node: fx.Node) -> None:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: constant_value(module, n))
    value = cast(Callable[..., Any], node.target)(*args, **kwargs)
    if not isinstance(value, Tensor):
        return
    name = f"_folded_{node.name}"
    module.register_buffer(name, value.detach().clone())
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.erase_node(node)


def constant_value(module: nn.Module, node: fx.Node) -> Any:
    """What a ``get_attr`` node of ``module`` stands for."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value
