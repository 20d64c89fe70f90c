"""What frozen backbones say of a sample in a few numbers: mean and maximum over positions, of every block.

Means alone (the usual pooling) lose what happens once in a clip or in one corner of a picture; maxima keep it. What
either adds, and what every block adds to the last, is measured in docs/results.md (``analytic-means``,
``analytic-last``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.encoder import Encoding
from mmcl_edge.adapters.features import masked_max, masked_mean
from mmcl_edge.adapters.inputs import Inputs, Item, ModalityInput, collate
from mmcl_edge.adapters.kept import Kept, modalities_of, stacked
from mmcl_edge.types import Backbone

Kind = Literal["mean", "max"]
Blocks = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class Moments:
    """A batch: modality to ``(B, D_m)``, and presence ``(B,)`` bool."""

    values: dict[str, Tensor]
    present: dict[str, Tensor]


class MomentEncoder(nn.Module):
    r"""Frozen: the normalised mean and maximum of every block's input and of the output, side by side.

    .. math:: h^m = [LN(\mathrm{mean}_n H_1^m), LN(\max_n H_1^m), \ldots, LN(\mathrm{mean}_n O^m), LN(\max_n O^m)]

    Over valid positions of all views. Normalised parts weigh as much as they have dimensions. Nothing is trained, so a
    sample is kept as this one vector.
    """

    def __init__(
        self, backbones: Mapping[str, Backbone], *, kinds: Sequence[Kind] = ("mean", "max"), blocks: Blocks = "all"
    ) -> None:
        super().__init__()
        self.backbones = dict(backbones)
        self.adapters = nn.ModuleList()
        self.kinds = tuple(kinds)
        self.blocks = blocks
        self.keeps = f"{' and '.join(kinds)} of {'every block and ' if blocks == 'all' else ''}the output"
        self.pooled_dims = {
            name: len(kinds) * (self._sum_of_blocks(one) + one.output_features.dim) for name, one in backbones.items()
        }

    def _sum_of_blocks(self, backbone: Backbone) -> int:
        return sum(spec.dim for spec in backbone.features) if self.blocks == "all" else 0

    def prepare(self, items: Sequence[Item]) -> list[Kept]:
        """One backbone pass a sample: ``m.moments (D_m,)``."""
        with torch.no_grad():
            return [{f"{m}.moments": x[0] for m, x in self._moments(collate([item])).items()} for item in items]

    def collate(self, prepared: Sequence[Kept]) -> Moments:
        """Stack; a modality that a sample lacks is zero and marked absent."""
        names = [f"{name}.moments" for name in modalities_of(prepared)]
        values = {name.split(".")[0]: stacked([one.get(name) for one in prepared]) for name in names}
        present = {name.split(".")[0]: torch.tensor([name in one for one in prepared]) for name in names}
        return Moments(values, present)

    def hide(self, batch: Moments, hidden: Mapping[str, Tensor]) -> Moments:
        """See ``Encoder.hide``."""
        return replace(batch, present={name: here & ~hidden[name] for name, here in batch.present.items()})

    def presence(self, batch: Moments) -> dict[str, Tensor]:
        """See ``Encoder.presence``."""
        return batch.present

    def forward(self, batch: Moments, generator: torch.Generator | None = None) -> Encoding:
        """Hand the moments over."""
        return Encoding(batch.values, batch.present, ())

    def extract(self, inputs: Inputs) -> Moments:
        """The moments of a batch, straight from its inputs."""
        return Moments(self._moments(inputs), {name: one.present for name, one in inputs.items()})

    def rows(self, batch: Moments) -> Tensor:
        """``(B, sum of D_m + M)``: moments of each modality, zero where absent, then who is there (0 or 1)."""
        count, dims = len(next(iter(batch.present.values()))), self.pooled_dims
        parts = [batch.values.get(name, torch.zeros(count, dims[name])) for name in sorted(dims)]
        here = [batch.present.get(name, torch.zeros(count, dtype=torch.bool)) for name in sorted(dims)]
        return torch.cat([*parts, torch.stack(here, dim=1).float()], dim=1)

    def _moments(self, inputs: Inputs) -> dict[str, Tensor]:
        return {name: torch.cat(self._parts(self.backbones[name], one), dim=1) for name, one in inputs.items()}

    def _parts(self, backbone: Backbone, one: ModalityInput) -> list[Tensor]:
        states = [backbone.stem(one.values)]
        for block in range(backbone.depth):
            states.append(backbone.segment(block, states[-1]))
        read = states if self.blocks == "all" else []
        return [part for x in (*read, backbone.output(states[-1])) for part in moments(x, one, self.kinds)]


def moments(x: Tensor, one: ModalityInput, kinds: Sequence[Kind]) -> list[Tensor]:
    """Normalised mean, maximum ``(B, D)`` over valid positions of features of all views.

    Args:
        x: ``(B*T, N, D)`` tokens or ``(B*T, D, H, W)`` map.
        one: the input it comes from, with its views and masks.
        kinds: which, in what order.
    """
    tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
    tokens = tokens.reshape(len(tokens) // one.views, -1, tokens.shape[2])  # (B, T*N, D)
    mask = one.mask(tokens.shape[1] // one.views)
    pool = {"mean": lambda: masked_mean(tokens, mask), "max": lambda: masked_max(tokens, mask)}
    return [functional.layer_norm(pool[kind](), tokens.shape[-1:]) for kind in kinds]
