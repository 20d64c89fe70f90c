"""Running a frozen or trained network over prepared samples, whatever their shapes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mmcl_edge.adapters.encoder import Encoder
from mmcl_edge.learners.features import PreparedSamples


def run_in_batches(
    prepared: PreparedSamples, run: Callable[[Any], Tensor], *, encoder: Encoder, batch_size: int
) -> Tensor:
    """``run`` of every sample, in order, without gradient; samples of one shape share a batch, so none is padded.

    Args:
        prepared: the samples.
        run: a batch of the encoder's kind to ``(B, ...)``.
        encoder: collates.
        batch_size: most samples a batch.
    """
    keys = [str(shape) for shape in prepared.shapes]
    order = sorted(range(len(prepared)), key=lambda i: (keys[i], i))
    rows: dict[int, Tensor] = {}
    with torch.no_grad():
        for _, group in groupby(order, key=keys.__getitem__):
            members = list(group)
            for part in (members[i : i + batch_size] for i in range(0, len(members), batch_size)):
                rows |= zip(part, run(encoder.collate([prepared[i] for i in part])), strict=True)
    return torch.stack([rows[i] for i in range(len(prepared))])
