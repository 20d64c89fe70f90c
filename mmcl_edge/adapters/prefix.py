"""The part of an inline model that no adapter reaches: everything before the first delta enters.

Deltas are added after a segment (``H[1] = segment_0(H[0]) + delta_0(H[0])``), so the stem's output ``H[0]`` and the
first segment's depend on the input alone. Training keeps them of each sample and runs neither again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmcl_edge.adapters.inputs import Inputs, ModalityInput
from mmcl_edge.adapters.kept import Kept, modalities_of, stacked


@dataclass(frozen=True, slots=True)
class Prefix:
    """A batch up to where the first delta enters.

    Attributes:
        tokens: modality to what the first adapter reads ``(B, T*N, D)``, normalised where the encoder normalises.
        after: modality to the first segment's output ``(B*T, N, D')`` or ``(B*T, D', H, W)``, with the input's masks.
    """

    tokens: dict[str, Tensor]
    after: Inputs

    def hide(self, hidden: Mapping[str, Tensor]) -> Prefix:
        """The batch with modalities taken from the samples where ``hidden[m]`` ``(B,)`` is true."""
        return Prefix(self.tokens, {name: one.hide(hidden[name]) for name, one in self.after.items()})


def keep(prefix: Prefix) -> Kept:
    """A batch of one sample as named tensors: ``m.tokens (T, N, D)``, ``m.after (T, ...)``, ``m.valid ()``."""
    kept: Kept = {}
    for name, one in prefix.after.items():
        kept[f"{name}.tokens"] = prefix.tokens[name][0].unflatten(0, (one.views, -1))
        kept[f"{name}.after"] = one.values
        if one.token_mask is not None:
            kept[f"{name}.valid"] = one.token_mask.sum()
    return kept


def join(kept: Sequence[Kept]) -> Prefix:
    """A batch of what ``keep`` gave, padded to the longest sound and the most views, and masked accordingly."""
    tokens, after = {}, {}
    for name in modalities_of(kept):
        tokens[name] = stacked([one.get(f"{name}.tokens") for one in kept]).flatten(1, 2)
        after[name] = _joined([one.get(f"{name}.after") for one in kept], [one.get(f"{name}.valid") for one in kept])
    return Prefix(tokens, after)


def _joined(parts: Sequence[Tensor | None], valid: Sequence[Tensor | None]) -> ModalityInput:
    values = stacked(parts)  # (B, T, ...)
    views = torch.tensor([0 if part is None else len(part) for part in parts])
    one = ModalityInput(values.flatten(0, 1), torch.arange(values.shape[1])[None] < views[:, None])
    if all(count is None for count in valid):
        return one
    real = torch.tensor([0 if count is None else int(count) for count in valid])
    lengths = tuple(0 if part is None else part.shape[1] for part in parts)
    return replace(one, token_mask=torch.arange(values.shape[2])[None] < real[:, None], lengths=lengths)
