"""Matrix products that stay whole while a graph is traced.

Torch takes ``linear`` and ``matmul`` apart into reshapes and two-dimensional products before autograd sees them,
and every reshape needs sizes computed at run time. Inside ``whole_products()`` they are single operations whose
gradients are single products again, so a VJP has as few nodes as the forward graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_library = torch.library.Library("mmcl_edge", "FRAGMENT")
_library.define("matmul(Tensor one, Tensor other) -> Tensor")


def _matmul(one: Tensor, other: Tensor) -> Tensor:
    return torch.matmul(one, other)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Of both factors, each only if wanted. Leading sizes are equal, or the second factor is a frozen matrix."""
    one, other = ctx.saved_tensors
    for_one, for_other = ctx.needs_input_grad
    return (
        product(g, other.transpose(-2, -1)) if for_one else None,
        product(one.transpose(-2, -1), g) if for_other else None,
    )


_library.impl("matmul", _matmul, "CompositeExplicitAutograd")
product: Callable[[Tensor, Tensor], Tensor] = torch.ops.mmcl_edge.matmul.default
torch.library.register_autograd("mmcl_edge::matmul", _gradient, setup_context=_remember, lib=_library)

_MATMULS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}


class whole_products(TorchFunctionMode):  # noqa: N801 - a context manager, named like a function
    """Within it, ``linear`` and ``matmul`` of equal leading sizes are traced as ``mmcl_edge::matmul``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Route the products; everything else runs as it is."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear:
            return _linear(*args, **kwargs)
        if func in _MATMULS and _is_plain(*args, **kwargs):
            return product(*args, **kwargs)
        return func(*args, **kwargs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = product(x, weight.t())
    return y if bias is None else y + bias


def _is_plain(one: Tensor, other: Tensor) -> bool:
    return one.dim() >= 2 and (other.dim() == 2 or one.shape[:-2] == other.shape[:-2])
