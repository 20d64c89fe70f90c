"""What the encoder eats: one padded, masked tensor per modality.

A modality that no sample of a batch has is left out; one that only some have is masked. Zeros never
pretend to be data: whatever a mask hides reaches no gate, no expert's attention and no pooled vector. Sound is padded
with silence to a whole second, which a backbone's own attention does see (as Whisper was trained to), but never the
padding that a longer batch mate brings: samples of one length share a call of a segment (``kept.apart``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class ModalityInput:
    """One modality of a batch.

    Attributes:
        values: stem input, ``(B*T, samples)`` for sound and ``(B*T, channels, samples)`` for motion (T = 1),
            ``(B*T, 3, H, W)`` for frames, ``(B, N)`` int64 for text.
        view_mask: ``(B, T)`` bool; a row without ``True`` means that the sample lacks the modality.
        token_mask: ``(B, N)`` bool, tokens that cover real sound or text; ``None`` where every token counts.
        whole: known without looking at the masks: every view and every token counts.
        lengths: tokens of each sample without the batch's padding (silence of its own included), 0 where it lacks the
            modality; ``None`` where the number of tokens does not follow the length of a sound or text.
    """

    values: Tensor
    view_mask: Tensor
    token_mask: Tensor | None = None
    whole: bool = False
    lengths: tuple[int, ...] | None = None

    @property
    def views(self) -> int:
        """T, frames per sample after padding."""
        views: int = self.view_mask.shape[1]
        return views

    @property
    def present(self) -> Tensor:
        """``(B,)`` bool: which samples have the modality."""
        return self.view_mask.any(dim=1)

    def mask(self, tokens: int) -> Tensor | None:
        """``(B, T*tokens)`` bool: valid positions of features with ``tokens`` tokens a view; ``None`` where all are."""
        if self.whole:
            return None
        views = self.view_mask[:, :, None].expand(-1, -1, tokens)
        if self.token_mask is not None:
            views = views & self.token_mask[:, None, :]
        return views.flatten(1)

    def groups(self) -> list[tuple[int | None, Tensor]] | None:
        """Rows ``(rows,)`` of ``values`` that show something, by their length in tokens (``None``: not known).

        ``None`` where all rows are one group, or none shows anything (and in a trace, which cannot look at masks).
        """
        if self.whole or torch.compiler.is_exporting():
            return None
        shown = self.view_mask.flatten().tolist()
        lengths = self.lengths or [None] * len(self.view_mask)
        found: dict[int | None, list[int]] = {}
        for row in (row for row, here in enumerate(shown) if here):
            found.setdefault(lengths[row // self.views], []).append(row)
        if not found or (len(found) == 1 and all(shown)):
            return None
        return [(length, torch.tensor(rows)) for length, rows in found.items()]

    def to(self, device: torch.device) -> ModalityInput:
        """The same input on ``device``."""
        mask = None if self.token_mask is None else self.token_mask.to(device)
        return replace(self, values=self.values.to(device), view_mask=self.view_mask.to(device), token_mask=mask)

    def hide(self, hidden: Tensor) -> ModalityInput:
        """The same input with the modality taken from the samples where ``hidden`` ``(B,)`` is true."""
        return replace(self, view_mask=self.view_mask & ~hidden[:, None], whole=False)


Inputs = dict[str, ModalityInput]
"""Modality name to input; all entries share B."""


@dataclass(frozen=True, slots=True)
class ItemInput:
    """One modality of one sample, before it is padded into a batch.

    Attributes:
        values: ``(1, samples)``, ``(1, channels, samples)``, ``(T, 3, H, W)`` or ``(1, N)``.
        tokens: number of tokens that cover real sound, or ``None`` where every token counts.
        total_tokens: tokens of ``values`` in all (with ``tokens``).
    """

    values: Tensor
    tokens: int | None = None
    total_tokens: int | None = None


Item = dict[str, ItemInput]
"""Modality name to one sample's input; a missing modality is missing."""


def collate(items: Sequence[Item]) -> Inputs:
    """Pad ``items`` into one batch: sound with silence to the longest, frames by empty, masked views."""
    modalities = dict.fromkeys(name for item in items for name in item)
    return {name: _collate_one([item.get(name) for item in items]) for name in modalities}


def _collate_one(parts: Sequence[ItemInput | None]) -> ModalityInput:
    known = [part for part in parts if part is not None]
    views = max(part.values.shape[0] for part in known)
    length = max(part.values.shape[-1] for part in known)
    blank = known[0].values.new_zeros((views, *known[0].values.shape[1:-1], length))
    values = torch.stack([blank if part is None else _pad_to(part.values, views, length) for part in parts])
    counts = torch.tensor([0 if part is None else part.values.shape[0] for part in parts])
    return ModalityInput(
        values=values.flatten(0, 1),
        view_mask=torch.arange(views)[None, :] < counts[:, None],
        token_mask=_token_mask(parts),
        lengths=_lengths(parts),
    )


def _pad_to(values: Tensor, views: int, length: int) -> Tensor:
    if values.shape[0] == views and values.shape[-1] == length:
        return values
    padding = [0, length - values.shape[-1], *([0, 0] * (values.ndim - 2)), 0, views - values.shape[0]]
    return functional.pad(values, padding)


def _token_mask(parts: Sequence[ItemInput | None]) -> Tensor | None:
    totals = [part.total_tokens for part in parts if part is not None and part.total_tokens is not None]
    if not totals:
        return None
    counts = torch.tensor([0 if part is None else part.tokens or 0 for part in parts])
    return torch.arange(max(totals))[None, :] < counts[:, None]


def _lengths(parts: Sequence[ItemInput | None]) -> tuple[int, ...] | None:
    totals = [0 if part is None else part.total_tokens for part in parts]
    known = [total for total in totals if total is not None]
    return tuple(known) if len(known) == len(totals) and any(known) else None
