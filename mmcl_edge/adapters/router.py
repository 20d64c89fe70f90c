"""The router: which K experts serve a sample, and with what weight (METHODS 1.3, item 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class Gate:
    """The router's decision.

    ``weights`` ``(B, K)`` sums to 1 over K; ``index`` ``(B, K)`` says which experts; ``dense`` ``(B, E)`` is the
    same decision over all experts (zero for those not chosen).
    """

    weights: Tensor
    index: Tensor
    dense: Tensor


class Router(nn.Module):
    r"""Softmax, then top K, then renormalisation.

    .. math:: s = W [\bar h^1; \ldots; \bar h^M; \text{present}], \quad p = softmax(s), \quad
              g_e = p_e / \sum_{e' \in topK(p)} p_{e'}

    Linear and without bias; one row per expert, so that experts can be appended and reordered.
    """

    def __init__(self, dims: Mapping[str, int], *, active: int, noise: float) -> None:
        super().__init__()
        self.modalities = tuple(dims)
        self.active = active
        self.noise = noise
        self.dims = dict(dims)
        self.weight = nn.Parameter(torch.empty(0, sum(dims.values()) + len(dims)))

    def forward(self, pooled: Mapping[str, Tensor], present: Tensor, generator: torch.Generator | None = None) -> Gate:
        """Decide for a batch.

        Args:
            pooled: modality to mean input tokens ``(B, D_m)``, zero for samples without it; a modality that
                no sample has may be left out.
            present: ``(B, M)`` float, 1 where a sample has the modality.
            generator: draws the exploration noise in training; ``None`` means no noise.
        """
        logits = functional.linear(self._input(pooled, present), self.weight)  # (B, E)
        if generator is not None and self.noise > 0:
            logits = logits + self.noise * torch.randn(logits.shape, generator=generator)
        top, index = logits.topk(self.active, dim=-1)  # (B, K)
        weights = top.softmax(dim=-1)
        return Gate(weights, index, torch.zeros_like(logits).scatter(1, index, weights))

    def _input(self, pooled: Mapping[str, Tensor], present: Tensor) -> Tensor:
        parts = []
        for name in self.modalities:
            value = pooled.get(name)
            if value is None:
                parts.append(present.new_zeros(len(present), self.dims[name]))
            else:
                parts.append(value)
        return torch.cat([*parts, present], dim=1)

    def append(self, count: int, generator: torch.Generator | None = None) -> None:
        """Add rows for ``count`` new experts: zero, or small normal when a generator is given."""
        rows = torch.zeros(count, self.weight.shape[1])
        if generator is not None:
            rows.normal_(std=INIT_STD, generator=generator)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), rows]))

    def reorder(self, order: Sequence[int]) -> None:
        """Put the rows in a new order (with ``ExpertBank.freeze``)."""
        self.weight = nn.Parameter(self.weight.detach()[list(order)].clone())
