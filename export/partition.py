"""Splits a joint graph ``(x, g) -> (y, gx)`` into a forward that saves activations and a VJP that takes them.

What to save is a minimum cut (the idea of min-cut rematerialisation). Forward values that the backward half needs
are sinks; ``x`` and the results of dear operations (products, convolutions, norms, softmax) cannot be computed again
and are sources; cutting a tensor means saving it and costs its bytes. Whatever is not saved but needed follows from
what is saved by cheap operations, which the VJP repeats. Sizes come from the shapes of a tracing input. Sizes that
vary (batch, tokens) are read off ``g``. Only float32 tensors are saved: every runtime can pass them without a copy.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from typing import Any

import networkx  # type: ignore[import-untyped]
import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from mmcl_edge.errors import ExportError
from mmcl_edge.export.vjp import DynamicAxes

aten = torch.ops.aten
_DEAR = {
    aten.matmul.default,
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.convolution.default,
    aten._softmax.default,
    aten.gelu.default,
    aten.erf.default,
    aten.native_layer_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.native_group_norm.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
}


@dataclass(frozen=True, eq=False)
class Split:
    """The two halves.

    Attributes:
        forward: ``x -> (y, s0, ..., sn)``.
        backward: ``(s0, ..., sn, g) -> gx``.
        saved: names of the saved activations, in order.
        axes: dynamic axes of every input of ``backward``.
    """

    forward: fx.GraphModule
    backward: fx.GraphModule
    saved: tuple[str, ...]
    axes: tuple[DynamicAxes, ...]


def split(joint: fx.GraphModule, x: Tensor, g: Tensor, axes: DynamicAxes) -> Split:
    """Partition ``joint``; ``x`` and ``g`` are examples whose sizes weigh the choice, ``axes`` those that vary."""
    ShapeProp(joint).propagate(x, g)
    parts = _Parts(joint)
    names = {_symbol(parts.x.meta["val"].shape[axis]): name for axis, name in axes.items()}
    saved = _cheapest_cut(parts)
    backward = _Backward(parts, saved).module()
    varying = tuple(_axes(node, names) for node in (*saved, parts.g))
    return Split(_forward(joint, saved), backward, tuple(node.name for node in saved), varying)


class _Parts:
    """The joint graph's nodes, sorted by what they depend on."""

    def __init__(self, joint: fx.GraphModule) -> None:
        self.joint = joint
        nodes = list(joint.graph.nodes)
        self.x, self.g = (node for node in nodes if node.op == "placeholder")
        self.y, self.gx = nodes[-1].args[0]
        self.backward = {self.g}
        self.backward.update(node for node in nodes if self._depends_on_g(node))
        self.forward = [n for n in nodes if n not in self.backward and n.op in ("placeholder", "call_function")]

    def _depends_on_g(self, node: fx.Node) -> bool:
        if node.op == "call_function" and any(parent in self.backward for parent in node.all_input_nodes):
            self.backward.add(node)
        return node in self.backward

    def needed(self) -> list[fx.Node]:
        """Forward values that the backward half reads."""
        wanted = {p for n in self.backward for p in n.all_input_nodes}
        if self.gx not in self.backward:
            wanted.add(self.gx)
        return [node for node in self.forward if node in wanted]


def _meta(node: fx.Node) -> TensorMetadata | None:
    found = node.meta.get("tensor_meta")
    return found if isinstance(found, TensorMetadata) else None


def _is_size(node: fx.Node) -> bool:
    """Whether the node is a number (a size), which is read off ``g`` and never saved."""
    return "tensor_meta" not in node.meta


def _cheapest_cut(parts: _Parts) -> list[fx.Node]:
    flow = networkx.DiGraph()
    values = [node for node in parts.forward if not _is_size(node)]
    for node in values:
        meta = _meta(node)
        price = {"capacity": meta.dtype.itemsize * math.prod(meta.shape)} if meta and _may_be_saved(node) else {}
        flow.add_edge((node.name, "in"), (node.name, "out"), **price)
        if node is parts.x or node.target in _DEAR:
            flow.add_edge("source", (node.name, "in"))
        else:
            for parent in node.all_input_nodes:
                if parent in values:
                    flow.add_edge((parent.name, "out"), (node.name, "in"))
    needed = [node for node in parts.needed() if node in values]
    if not needed:
        return []
    for node in needed:
        flow.add_edge((node.name, "out"), "sink")
    _, (before, after) = networkx.minimum_cut(flow, "source", "sink")
    return [node for node in values if (node.name, "in") in before and (node.name, "out") in after]


def _may_be_saved(node: fx.Node) -> bool:
    """Whether an ONNX graph can take the tensor as an input: float32, each size a number or a multiple of one axis."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return False
    return all(isinstance(size, int) or size.node.expr.as_coeff_Mul()[1].is_Symbol for size in value.shape)


def _symbol(size: object) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _axes(node: fx.Node, names: dict[sympy.Expr, str]) -> DynamicAxes:
    axes: DynamicAxes = {}
    for axis, size in enumerate(node.meta["val"].shape):
        factor, symbol = _symbol(size).as_coeff_Mul()
        if symbol in names:
            axes[axis] = names[symbol] if factor == 1 else f"{factor}*{names[symbol]}"
    return axes


def _forward(joint: fx.GraphModule, saved: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(joint.graph, values)
    assert isinstance(outputs, tuple | list)
    graph.output((outputs[0], *(values[node] for node in saved)))
    graph.eliminate_dead_code()
    graph.erase_node(next(node for node in reversed(graph.nodes) if node.op == "placeholder"))  # g
    return fx.GraphModule(joint, graph)


class _Backward:
    """Builds the VJP graph: saved values are placeholders, everything else is copied when it is first needed."""

    def __init__(self, parts: _Parts, saved: list[fx.Node]) -> None:
        self.parts, self.graph = parts, fx.Graph()
        self.values: dict[fx.Node, Any] = {node: self._placeholder(node, f"s{i}") for i, node in enumerate(saved)}
        self.values[parts.g] = self._placeholder(parts.g, "g")

    def module(self) -> fx.GraphModule:
        """The finished VJP ``(s0, ..., sn, g) -> gx``."""
        for node in self.parts.joint.graph.nodes:
            if node in self.parts.backward:
                self._value(node)
        self.graph.output(self._value(self.parts.gx))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.parts.joint, self.graph)

    def _placeholder(self, node: fx.Node, name: str) -> fx.Node:
        made = self.graph.placeholder(name)
        made.meta = dict(node.meta)
        return made

    def _value(self, node: fx.Node) -> Any:
        if node not in self.values:
            if node.target is aten.sym_size.int:
                self.values[node] = self._size(node.meta["val"].node.expr)
            else:
                self.values[node] = self.graph.node_copy(node, self._value)
        return self.values[node]

    def _size(self, expression: sympy.Expr) -> fx.Node | int:
        """A size that varies, computed from the axes of ``g`` that have its symbols."""
        if expression.is_Integer:
            return int(expression)
        for axis, size in enumerate(self.parts.g.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr == expression:
                return self.graph.call_function(aten.sym_size.int, (self.values[self.parts.g], axis))
        combine = {sympy.Mul: operator.mul, sympy.Add: operator.add}.get(expression.func)
        if combine is None:
            raise ExportError(
                f"A gradient needs the size {expression}, which its inputs do not have; export with --vjp recompute."
            )
        factors = [self._size(part) for part in expression.args]
        return functools.reduce(lambda one, other: self.graph.call_function(combine, (one, other)), factors)
