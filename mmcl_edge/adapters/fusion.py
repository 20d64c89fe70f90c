"""Projection of each modality and their fusion into the joint representation (METHODS 1.3, item 6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    r"""Per-modality projections :math:`z^m = P_m(LN(h^m))` and :math:`\tilde z = MLP([z^1; \ldots; z^M])`.

    A sample that lacks a modality gets a learned vector in its place, and the MLP is told so by presence flags.
    """

    def __init__(self, dims: Mapping[str, int], *, joint_dim: int, hidden: int) -> None:
        super().__init__()
        self.modalities = tuple(dims)
        self.project = nn.ModuleDict(
            {name: nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, joint_dim)) for name, dim in dims.items()}
        )
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(joint_dim)) for name in dims})
        width = len(dims) * (joint_dim + 1)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, joint_dim))

    def forward(self, pooled: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Pooled features ``(B, D_m)`` and presence ``(B,)`` to ``{m: z^m (B, J)}`` and the joint ``(B, J)``."""
        some = next(iter(pooled.values()))
        z = {name: self.project[name](value) for name, value in pooled.items()}
        parts, flags = [], []
        for name in self.modalities:
            here = present[name][:, None].to(some.dtype) if name in z else some.new_zeros(len(some), 1)
            absent = (1 - here) * self.absent[name]
            parts.append(z[name] * here + absent if name in z else absent)
            flags.append(here)
        return z, self.mlp(torch.cat([*parts, *flags], dim=1))
