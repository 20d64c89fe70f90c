"""Comparing gradients on the same side of every kink.

The gradient of a network with ReLU-like activations jumps where an activation's input crosses a threshold.
Among millions of activations a few lie within rounding of one, so two correct programs pick different sides and
their gradients differ by about ``1/sqrt(elements)``: torch in single and in double precision differ by 6e-3
for EfficientNet-Lite0. The jump says nothing about an export, so the reference is evaluated with the conditions
that the exported graph itself computed, after checking that they differ from torch's only in isolated elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, fx

MAX_FLIPPED_SHARE = 1e-4
"""More disagreeing conditions than this share (but at least 8) are an error of the export, not rounding."""

_WHERE = torch.ops.aten.where.self


def count_kinks(module: fx.GraphModule) -> int:
    """How many tensors of conditions the graph chooses by."""
    return sum(node.target is _WHERE for node in module.graph.nodes)


def expose_conditions(model: onnx.ModelProto) -> int:
    """Make the condition of every ``Where`` node an output of the graph, in place; returns how many there are."""
    names = [node.input[0] for node in model.graph.node if node.op_type == "Where"]
    for name in dict.fromkeys(names):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None))
    return len(names)


class OnGivenSide(fx.Interpreter):
    """Runs a graph, taking the conditions of ``where`` from outside.

    Attributes:
        flipped: largest share of conditions that disagreed with the graph's own.
    """

    def __init__(self, module: fx.GraphModule, conditions: Sequence[Tensor]) -> None:
        super().__init__(module)
        self._conditions = iter(conditions)
        self.flipped = 0.0

    def run_node(self, n: fx.Node) -> object:
        """One node; ``where`` gets the next condition given."""
        if n.target is not _WHERE:
            return super().run_node(n)
        own, one, other = self.fetch_args_kwargs_from_env(n)[0]
        given = next(self._conditions)
        disagreeing = int((own != given).sum())
        self.flipped = max(self.flipped, disagreeing / given.numel() if disagreeing > 8 else 0.0)
        return torch.where(given, one, other)
