"""The vector-Jacobian product of a segment as one graph of core operations.

``autograd.grad(segment(x), x, g)`` is traced with symbolic batch (and token) sizes. Every backward formula is
decomposed into operations that ONNX has; the input gradient of a convolution becomes a convolution again, and
whatever depends on weights alone is computed here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from mmcl_edge.export.gradients import decompositions
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
        graph = make_fx(joint, decomposition_table=decompositions(), tracing_mode="real")(*inputs)
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
