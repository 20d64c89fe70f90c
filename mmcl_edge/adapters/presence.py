"""Who is there: presence and valid positions of one batch, worked out once and read by every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl_edge.adapters.features import masked_mean


class Presence:
    """Presence of every modality in a batch, and the masks of its tokens.

    Args:
        names: all modalities of the encoder, in its order.
        present: modality to ``(B,)`` bool; modalities left out are absent from the whole batch.

    Attributes:
        matrix: ``(B, M)`` float, 1 where a sample has the modality.
        complete: whether every sample has every modality; then nothing needs weighing. What is traced for export
            is one sample, which has all that its batch has.
    """

    def __init__(self, names: Sequence[str], present: Mapping[str, Tensor]) -> None:
        some = next(iter(present.values()))
        columns = [present[name] if name in present else torch.zeros_like(some) for name in names]
        self.by_name = dict(present)
        self.matrix = torch.stack(columns, dim=1).float()
        self.complete = torch.compiler.is_exporting() or bool(self.matrix.all())
        self._masks: dict[tuple[str, str], Tensor | None] = {}
        self._biases: dict[tuple[str, str], Tensor | None] = {}

    def add_mask(self, name: str, tokens: int, mask: Tensor | None) -> None:
        """Valid positions ``(B, N)`` bool of one modality's tokens, for features of N tokens; ``None``: all are."""
        known = mask is None or torch.compiler.is_exporting()  # a traced mask cannot be looked at
        self._masks[_key(name, tokens)] = mask if mask is None or known or not bool(mask.all()) else None

    def has_mask(self, name: str, tokens: int) -> bool:
        """Whether ``add_mask`` was called for features of so many tokens."""
        return _key(name, tokens) in self._masks

    def mean(self, name: str, tokens: Tensor) -> Tensor:
        """Mean over valid tokens: ``(B, N, D)`` to ``(B, D)``; zero for a sample without the modality."""
        return masked_mean(tokens, self._masks[_key(name, tokens.shape[1])])

    def attention_bias(self, name: str, tokens: int) -> Tensor | None:
        """``(B, 1, 1, N)``, 0 where a token may be read and -inf where not; ``None`` where all may.

        A sample without the modality reads freely (its softmax must not be empty); ``share`` drops the result.
        """
        key = _key(name, tokens)
        if key not in self._biases:
            mask = self._masks[key]
            self._biases[key] = None if mask is None else _bias(mask)
        return self._biases[key]

    def share(self, name: str, others: Sequence[str]) -> Tensor | float:
        """Weight of modality ``name`` in the mean over ``others``: ``1 / present others``, 0 where absent.

        A number where all are present, else ``(B, 1, 1, 1)``.
        """
        if self.complete:
            return 1.0 / len(others)
        count = torch.stack([self.by_name[other] for other in others]).sum(dim=0).clamp_min(1)
        return (self.by_name[name] / count)[:, None, None, None]


def _key(name: str, tokens: int) -> tuple[str, str]:
    return name, str(tokens)  # a traced size has no hash


def _bias(mask: Tensor) -> Tensor:
    usable = mask | ~mask.any(dim=1, keepdim=True)
    bias = torch.zeros(usable.shape, device=usable.device).masked_fill_(~usable, -torch.inf)
    return bias[:, None, None, :]
