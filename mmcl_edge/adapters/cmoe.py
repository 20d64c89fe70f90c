r"""CMoE-Adapter: experts of the shared space that a stage adds and freezes (METHODS 2.5).

.. math:: y_t = z_t + \sum_{e \in topK(p)} g_e E_e(z_t), \quad E_e(z) = W_e^{up} GELU(W_e^{down} z + b_e), \quad
          p = softmax(W_g \bar z), \quad g = p / \sum_{topK} p

A stage begins with fresh experts, whose up projection is zero, and gate rows of zero: nothing changes at first. It ends
with all of them frozen. Frozen experts and their gate rows are buffers: no gradient, no optimizer state, the same bits
for ever. The gate sees the mean over a sample's slots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTS = ("down", "bias", "up", "route")
"""Names of an expert's tensors: ``down (D, R)``, ``bias (R,)``, ``up (R, D)``, and its row of the gate ``(D,)``."""


class CMoEAdapter(nn.Module):
    """All experts of the shared space, frozen ones first.

    Args:
        dim: D.
        rank: R, width of an expert.
        active: K, experts that serve one sample; fewer where there are fewer.
        noise: standard deviation of the noise on gate logits in training.
    """

    def __init__(self, dim: int, *, rank: int, active: int, noise: float) -> None:
        super().__init__()
        self.dim, self.rank, self.active, self.noise = dim, rank, active, noise
        self.shapes = {"down": (dim, rank), "bias": (rank,), "up": (rank, dim), "route": (dim,)}
        self.put({part: torch.zeros(0, *shape) for part, shape in self.shapes.items()}, frozen=0)

    def put(self, values: dict[str, Tensor], *, frozen: int) -> None:
        """Replace all experts: every part ``(E, ...)``, the first ``frozen`` of them frozen."""
        for part in PARTS:
            value = values[part].detach().clone()
            self.register_buffer(f"frozen_{part}", value[:frozen].contiguous())
            self.register_parameter(part, nn.Parameter(value[frozen:].contiguous()))

    @property
    def experts(self) -> int:
        """E."""
        return self.frozen + len(self.get_parameter("route"))

    @property
    def frozen(self) -> int:
        """How many are frozen."""
        return len(self.get_buffer("frozen_route"))

    def stack(self, part: str) -> Tensor:
        """``(E, ...)``: frozen experts, then the others."""
        return torch.cat([self.get_buffer(f"frozen_{part}"), self.get_parameter(part)])

    def grow(self, count: int, generator: torch.Generator) -> None:
        """Append ``count`` fresh experts: no-ops with a gate of zero."""
        bound = 1 / math.sqrt(self.dim)
        new = {part: torch.zeros(count, *shape) for part, shape in self.shapes.items()}
        new["down"].uniform_(-bound, bound, generator=generator)
        frozen = self.frozen
        self.put({part: torch.cat([self.stack(part), new[part]]) for part in PARTS}, frozen=frozen)

    def freeze(self) -> None:
        """Freeze every expert and its gate row for good."""
        self.put({part: self.stack(part) for part in PARTS}, frozen=self.experts)

    def gate(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Weights ``(B, E)`` of the experts for samples ``(B, T, D)``, zero but for K of them; they sum to 1."""
        logits = functional.linear(z.mean(dim=1), self.stack("route"))  # (B, E)
        noisy = logits
        if generator is not None and self.noise > 0:
            noisy = logits + self.noise * torch.randn(logits.shape, generator=generator)
        top, index = noisy.topk(min(self.active, self.experts), dim=-1)
        return torch.zeros_like(logits).scatter(1, index, top.softmax(dim=-1))

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Adapt ``(B, T, D)``; a generator turns the gate's noise on."""
        if not self.experts:
            return z
        hidden = torch.einsum("btd,edr->bter", z, self.stack("down")) + self.stack("bias")
        weighed = functional.gelu(hidden) * self.gate(z, generator)[:, None, :, None]  # (B, T, E, R)
        return z + torch.einsum("bter,erd->btd", weighed, self.stack("up"))
