"""What training keeps of one sample: named tensors that no adapter reaches, so they are worked out once.

``audio.tokens``: modality, then what it is; a sample without a modality has none of its names. Kept tensors may be
of lower precision than computing is; batches are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.inputs import ModalityInput

Kept = dict[str, Tensor]
"""Name to tensor, of one sample."""


def modalities_of(kept: Sequence[Kept]) -> tuple[str, ...]:
    """The modalities that some sample has, by name: files give tensors in no order, and sums depend on theirs."""
    return tuple(sorted({name.split(".")[0] for one in kept for name in one}))


def stacked(parts: Sequence[Tensor | None]) -> Tensor:
    """A float32 batch ``(B, ...)`` as large as the largest part each way; zero where a part ends or is missing."""
    known = [part for part in parts if part is not None]
    shape = [max(sizes) for sizes in zip(*(part.shape for part in known), strict=True)]
    full = len(known) == len(parts) and all(list(part.shape) == shape for part in known)
    batch = torch.empty(len(parts), *shape) if full else torch.zeros(len(parts), *shape)
    for row, part in zip(batch, parts, strict=True):
        if part is not None:
            row[tuple(slice(size) for size in part.shape)] = part
    return batch


def apart(run: Callable[[Tensor], Tensor], x: Tensor, one: ModalityInput) -> Tensor:
    """``run`` on ``x`` so that no sample sees another's padding, and nothing is spent on what no sample has.

    Args:
        run: a frozen segment, rows independent of each other; tokens keep their places.
        x: ``(B*T, N, D)`` tokens or ``(B*T, D, H, W)`` map.
        one: the input that ``x`` comes from: its views, masks and lengths.

    Returns:
        What ``run`` gives, where tokens of one length share a call; zero beyond a sample's length and in views that
        are masked.
    """
    groups = one.groups()
    if groups is None:
        return run(x)
    parts = []
    for length, rows in groups:
        part = run(x[rows] if length is None else x[rows, :length])
        parts.append(part if length is None else functional.pad(part, (0, 0, 0, x.shape[1] - length)))
    found = torch.cat(parts)
    rows = torch.cat([rows for _, rows in groups])
    return found.new_zeros(len(x), *found.shape[1:]).index_copy(0, rows, found)
