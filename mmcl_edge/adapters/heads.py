"""Growing classification heads."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class GrowingHead(nn.Module):
    """One row per class seen; new classes add rows, old rows stay where they are.

    ``cosine``: ``scale * cos(z, w_c)`` (no row can win by its length). ``linear``: ``w_c z + b_c``.
    """

    def __init__(self, dim: int, *, kind: Literal["cosine", "linear"], scale: float) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.bias = nn.Parameter(torch.empty(0)) if kind == "linear" else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if kind == "cosine" else None

    @property
    def classes(self) -> int:
        """C, classes seen."""
        return int(self.weight.shape[0])

    def forward(self, z: Tensor) -> Tensor:
        """Joint representation ``(B, J)`` to logits ``(B, C)``."""
        if self.log_scale is None:
            return functional.linear(z, self.weight, self.bias)
        return self.log_scale.exp() * (_unit(z) @ _unit(self.weight).T)

    def grow(self, count: int, generator: torch.Generator) -> None:
        """Add ``count`` classes: rows normal with standard deviation ``1/sqrt(J)``, bias zero."""
        rows = torch.empty(count, self.weight.shape[1]).normal_(std=self.weight.shape[1] ** -0.5, generator=generator)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows]))
        if self.bias is not None:
            self.bias = nn.Parameter(torch.cat([self.bias.detach(), torch.zeros(count)]))


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1 (no size enters the traced graph, as ``functional.normalize`` would have it)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(1e-12)
