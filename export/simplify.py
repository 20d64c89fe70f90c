"""Rewrites a traced graph into an equal one with fewer passes over large tensors.

* What is computed twice is computed once.
* A batch norm with fixed statistics behind a convolution becomes part of that convolution.
* A factor per channel in front of a convolution becomes part of its weights (gradients of batch norms are such).
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassResult

from mmcl_edge.export.vjp import constant_value

aten = torch.ops.aten
_CONV = aten.convolution.default
_NORM = aten._native_batch_norm_legit_no_training.default


def simplified(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``module`` with the rewrites done; the order of what remains is kept."""
    clone: fx.GraphModule = cast(PassResult, CSEPass()(copy.deepcopy(module))).graph_module
    for node in list(clone.graph.nodes):
        if node.target is _NORM:
            _fold_batch_norm(clone, node)
    for node in list(clone.graph.nodes):
        if node.target is _CONV:
            _fold_factor(clone, node)
    clone.graph.eliminate_dead_code()
    clone.recompile()
    return clone


def _fold_batch_norm(module: fx.GraphModule, norm: fx.Node) -> None:
    """``norm(conv(x, W, b))`` to ``conv(x, sW, s(b - mean) + beta)`` with ``s = gamma / sqrt(var + eps)``."""
    conv, *parameters, _, eps = cast(tuple[Any, ...], norm.args)
    if conv.target is not _CONV or len(conv.users) > 1 or conv.args[6]:
        return
    gamma, beta, mean, var = (constant_value(module, node) for node in parameters)
    weight = constant_value(module, conv.args[1])
    bias = 0.0 if conv.args[2] is None else constant_value(module, conv.args[2])
    scale = gamma / torch.sqrt(var + eps)
    folded = _store(module, conv, "weight", weight * _along(scale, 0, weight.dim()))
    conv.args = (conv.args[0], folded, _store(module, conv, "bias", (bias - mean) * scale + beta), *conv.args[3:])
    for output in list(norm.users):  # in inference the norm has one result that is read, its first
        output.replace_all_uses_with(conv)


def _fold_factor(module: fx.GraphModule, conv: fx.Node) -> None:
    """``conv(x * c, W)`` to ``conv(x, cW)`` for a constant ``c`` of one value per input channel."""
    product = conv.args[0]
    if not isinstance(product, fx.Node) or product.target is not aten.mul.Tensor or len(product.users) > 1:
        return
    x, factor = product.args
    weight: Tensor = constant_value(module, cast(fx.Node, conv.args[1]))
    transposed, groups = cast(bool, conv.args[6]), cast(int, conv.args[8])
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if not isinstance(factor, fx.Node) or factor.op != "get_attr":
        return
    value: Tensor = constant_value(module, factor)
    if value.numel() != channels or value.dim() < 3 or value.shape[-weight.dim() + 1] != channels:
        return
    conv.args = (
        x,
        _store(module, conv, "scaled", _scaled(weight, value.flatten(), transposed, groups)),
        *conv.args[2:],
    )


def _scaled(weight: Tensor, factor: Tensor, transposed: bool, groups: int) -> Tensor:
    """Weights that take in ``factor``, per input channel: axis 0 if transposed, else axis 1 within each group."""
    if transposed:
        return weight * _along(factor, 0, weight.dim())
    out, inner, *taps = weight.shape
    grouped = weight.reshape(groups, out // groups, inner, -1) * factor.reshape(groups, 1, inner, 1)
    return grouped.reshape(out, inner, *taps)


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def _store(module: fx.GraphModule, before: fx.Node, what: str, value: Tensor) -> fx.Node:
    name = f"_{before.name}_{what}"
    module.register_buffer(name, value.detach().clone())
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)
