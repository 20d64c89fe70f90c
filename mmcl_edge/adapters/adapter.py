"""The cross-modality adapter of one block: router, experts, and attention to the other modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.experts import ExpertBank
from mmcl_edge.adapters.presence import Presence
from mmcl_edge.adapters.router import Gate, Router

Attention = Literal["latents", "tokens", "none"]


class AdapterOutput(NamedTuple):
    """Deltas by modality ``(B, N_m, D'_m)``, the gate that mixed them, and the mean input tokens ``(B, D_m)``."""

    deltas: dict[str, Tensor]
    gate: Gate
    means: dict[str, Tensor]


class CrossModalityAdapter(nn.Module):
    r"""Mixture of K of E experts per sample (METHODS 1.3, item 4; a reconstruction of paper 1).

    .. math::
        U^m = H^m W_{e,m}^{down}, \quad
        X^m = \frac{1}{M-1} \sum_{n \ne m} read(U^m, U^n), \quad
        \Delta^m = s \sum_e g_e \, GELU(U^m + X^m) W_{e,m}^{up}

    ``read`` is token-to-token attention in the rank space (``tokens``), the same through L learned latents that
    first attend to the other modality (``latents``, linear in tokens, as in LAVisH), or nothing (``none``: a
    modality-specific adapter). ``W_up`` starts at zero, so a new adapter changes nothing.
    """

    def __init__(
        self,
        dims: Mapping[str, tuple[int, int]],
        *,
        block: int,
        rank: int,
        active: int,
        attention: Attention,
        latents: int,
        scale: float,
        noise: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(dims)
        self.attention = attention
        self.scale = scale
        self.router = Router({name: d_in for name, (d_in, _) in dims.items()}, active=active, noise=noise)
        self.bank = ExpertBank(dims, rank=rank, latents=latents if attention == "latents" else 0, block=block)
        self.register_buffer("usage", torch.zeros(0))

    def forward(
        self, tokens: Mapping[str, Tensor], presence: Presence, generator: torch.Generator | None = None
    ) -> AdapterOutput:
        """Deltas for the modalities of the batch.

        Args:
            tokens: modality to block input ``(B, N_m, D_m)``.
            presence: who is there, with a mask for each of ``tokens``.
            generator: given in training; draws router noise and turns usage counting on.
        """
        means = {name: presence.mean(name, x) for name, x in tokens.items()}
        gate = self.router(means, presence.matrix, generator)
        if generator is not None:
            self.usage.add_((gate.dense.detach() > 0).sum(dim=0))
        low = {name: self._down(name, x, gate.index) for name, x in tokens.items()}
        deltas = {name: self._up(name, self._mix(name, low, presence, gate.index), gate) for name in low}
        return AdapterOutput(deltas, gate, means)

    def _down(self, name: str, tokens: Tensor, index: Tensor) -> Tensor:
        weight = self.bank.gather(name, "down", index)  # (B, K, R, D)
        bias = self.bank.gather(name, "bias", index)  # (B, K, R)
        low = torch.baddbmm(bias.flatten(1)[:, None], tokens, weight.flatten(1, 2).mT)  # (B, N, K*R)
        batch, active, rank = bias.shape
        return low.view(batch, -1, active, rank).transpose(1, 2)  # (B, K, N, R)

    def _up(self, name: str, low: Tensor, gate: Gate) -> Tensor:
        weight = self.bank.gather(name, "up", gate.index).flatten(1, 2)  # (B, K*R, D')
        scaled = functional.gelu(low) * (self.scale * gate.weights)[:, :, None, None]  # (B, K, N, R)
        return torch.bmm(scaled.transpose(1, 2).flatten(2), weight)  # (B, N, D')

    def _mix(self, name: str, low: Mapping[str, Tensor], presence: Presence, index: Tensor) -> Tensor:
        others = [other for other in low if other != name]
        if self.attention == "none" or not others:
            return low[name]
        total = low[name]
        for other in others:
            bias = presence.attention_bias(other, low[other].shape[2])
            total = total + presence.share(other, others) * self._read(name, low[name], low[other], bias, index)
        return total

    def _read(self, name: str, own: Tensor, other: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
        """What ``own`` ``(B, K, N, R)`` reads from ``other`` ``(B, K, N', R)`` under ``bias`` ``(B, 1, 1, N')``."""
        if self.attention == "tokens":
            return attend(own, other, bias)
        latents = self.bank.gather(name, "latents", index)  # (B, K, L, R)
        return attend(own, latents + attend(latents, other, bias), None)

    def grow(self, count: int, generator: torch.Generator, *, zero_gate: bool) -> None:
        """Append ``count`` fresh experts and their router rows."""
        self.bank.append(count, generator)
        self.router.append(count, None if zero_gate else generator)
        self.reset_usage()

    def reset_usage(self) -> None:
        """Start counting assignments anew (at the beginning of an experience)."""
        self.usage = torch.zeros(len(self.bank))

    def freeze_used(self, owner: str) -> None:
        """Freeze the K most used trainable experts (METHODS 1.4), but none that was not used; ties: the earlier one."""
        first = self.bank.frozen
        count = min(self.router.active, len(self.bank) - first)
        usage = self.usage[first:]
        ranked = sorted(range(len(usage)), key=lambda i: (-float(usage[i]), i))
        used = [first + i for i in ranked[:count] if usage[i] > 0]
        self.router.reorder(self.bank.freeze(used, owner))
        self.reset_usage()

    @property
    def trainable_experts(self) -> int:
        """How many experts can still learn."""
        return len(self.bank) - self.bank.frozen


def attend(query: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
    """What ``query`` ``(..., N, R)`` reads from ``memory`` ``(..., N', R)``: ``softmax(q m^T / sqrt(R) + bias) m``.

    Spelled out where a graph is traced: the exporter would take the fused operation apart into many more nodes.
    """
    if not torch.compiler.is_exporting():
        return functional.scaled_dot_product_attention(query, memory, memory, attn_mask=bias)
    scores = query @ memory.mT * query.shape[-1] ** -0.5
    read: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1) @ memory
    return read
