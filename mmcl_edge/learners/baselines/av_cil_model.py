"""AV-CIL's model on frozen features: one vector of the sound, many of the pictures, and attention between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmcl_edge.adapters.encoder import Encoding, pool_output
from mmcl_edge.adapters.features import to_tokens
from mmcl_edge.adapters.inputs import Item, ModalityInput, collate
from mmcl_edge.adapters.kept import Kept, stacked
from mmcl_edge.errors import InputError
from mmcl_edge.learners.frozen import normal
from mmcl_edge.types import AUDIO, FRAMES, Backbone


@dataclass(frozen=True, slots=True)
class AvBatch:
    """``audio`` ``(B, D_a)``, ``frames`` ``(B, T, N, D_v)``, zero in views that a sample lacks; presence ``(B,)``."""

    features: dict[str, Tensor]
    present: dict[str, Tensor]


class AvEncoder(nn.Module):
    """Frozen output features, normalised: pooled for sound, by frame and position for pictures.

    Args:
        backbones: among them sound and pictures; others are not used.
        grid: maps are averaged to at most so many rows and columns of positions.

    Raises:
        InputError: a bundle without sound or without pictures.
    """

    def __init__(self, backbones: Mapping[str, Backbone], *, grid: int) -> None:
        super().__init__()
        if not {AUDIO, FRAMES} <= set(backbones):
            raise InputError(
                f"AV-CIL needs backbones for {AUDIO!r} and {FRAMES!r}, but the bundle has {sorted(backbones)}; "
                "choose another learner or bundle."
            )
        self.backbones = {name: backbones[name] for name in (AUDIO, FRAMES)}
        self.adapters = nn.ModuleList()
        self.pooled_dims = {name: one.output_features.dim for name, one in self.backbones.items()}
        self.grid = grid
        self.keeps = f"av-cil, grid {grid}"

    def prepare(self, items: Sequence[Item]) -> list[Kept]:
        """``audio.output (D_a,)`` and ``frames.tokens (T, N, D_v)`` of each sample.

        Raises:
            InputError: a sample has neither.
        """
        with torch.no_grad():
            return [self._keep(item) for item in items]

    def _keep(self, item: Item) -> Kept:
        own = {name: one for name, one in item.items() if name in self.backbones}
        if not own:
            raise InputError("AV-CIL needs sound or pictures of every sample, but one has neither; leave it out.")
        inputs, kept = collate([own]), {}
        if AUDIO in inputs:
            x = _through(self.backbones[AUDIO], inputs[AUDIO])
            kept[f"{AUDIO}.output"] = normal(pool_output(self.backbones[AUDIO], x, inputs[AUDIO])[0])
        if FRAMES in inputs:
            backbone = self.backbones[FRAMES]
            x = backbone.output(_through(backbone, inputs[FRAMES]))
            grid = (min(self.grid, x.shape[2]), min(self.grid, x.shape[3])) if x.ndim == 4 else None
            kept[f"{FRAMES}.tokens"] = normal(to_tokens(x, 1, grid=grid))
        return kept

    def collate(self, prepared: Sequence[Kept]) -> AvBatch:
        """See ``Encoder.collate``."""
        parts = {AUDIO: "output", FRAMES: "tokens"}
        found = {name: [one.get(f"{name}.{part}") for one in prepared] for name, part in parts.items()}
        known = {name: values for name, values in found.items() if any(value is not None for value in values)}
        present = {name: torch.tensor([value is not None for value in values]) for name, values in known.items()}
        return AvBatch({name: stacked(values) for name, values in known.items()}, present)

    def hide(self, batch: AvBatch, hidden: Mapping[str, Tensor]) -> AvBatch:
        """See ``Encoder.hide``."""
        return replace(batch, present={name: here & ~hidden[name] for name, here in batch.present.items()})

    def presence(self, batch: AvBatch) -> dict[str, Tensor]:
        """See ``Encoder.presence``."""
        return batch.present

    def forward(self, batch: AvBatch, generator: torch.Generator | None = None) -> Encoding:
        """The features as they are, for ``AvFusion``."""
        return Encoding(batch.features, batch.present, ())


def _through(backbone: Backbone, one: ModalityInput) -> Tensor:
    x = backbone.stem(one.values)
    for index in range(backbone.depth):
        x = backbone.segment(index, x)
    return x


class AvFusion(nn.Module):
    r"""Audio-guided attention over positions, then frames, channel by channel, and a sum (Pian et al., equations 1-4).

    .. math::
        p^a = \tanh(W_1 a), \; p^v_{tn} = \tanh(W_2 v_{tn}), \quad
        w_{tn} = softmax_n(p^v_{tn} \odot p^a), \quad
        \omega_t = softmax_t(\textstyle\sum_n w_{tn} \odot p^v_{tn} \odot p^a)

    .. math::
        \hat v = \textstyle\sum_t \omega_t \odot \sum_n w_{tn} \odot v_{tn}, \quad
        f = ReLU(W_3 a) + ReLU(W_4 \hat v)

    Without sound the attention is even; a modality that a sample lacks adds nothing to the sum.
    """

    def __init__(self, dims: Mapping[str, int], *, joint_dim: int) -> None:
        super().__init__()
        sound, sight = dims[AUDIO], dims[FRAMES]
        self.guide, self.look = nn.Linear(sound, sight), nn.Linear(sight, sight)
        self.project = nn.ModuleDict({AUDIO: nn.Linear(sound, joint_dim), FRAMES: nn.Linear(sight, joint_dim)})

    def forward(self, pooled: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Features of ``AvEncoder`` and presence ``(B,)`` to ``{m: f^m (B, J)}`` and their sum ``(B, J)``."""
        inputs = dict(pooled)
        if FRAMES in pooled:
            spatial, temporal = self.attention(pooled, present)
            inputs[FRAMES] = (temporal * (spatial * pooled[FRAMES]).sum(dim=2)).sum(dim=1)  # (B, D_v)
        z = {name: torch.relu(self.project[name](x)) for name, x in inputs.items()}
        joint = torch.stack([value * present[name][:, None] for name, value in z.items()]).sum(dim=0)
        return z, joint

    def attention(self, pooled: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weights over positions ``(B, T, N, D_v)`` and over frames ``(B, T, D_v)``; masked frames weigh nothing."""
        sight = pooled[FRAMES]
        look = torch.tanh(self.look(sight))
        guide = torch.zeros_like(sight[:, 0, 0])
        if AUDIO in pooled:
            guide = torch.tanh(self.guide(pooled[AUDIO])) * present[AUDIO][:, None]
        spatial = (look * guide[:, None, None]).softmax(dim=2)
        scores = (spatial * look).sum(dim=2) * guide[:, None]  # (B, T, D_v)
        shown = sight.flatten(2).any(dim=2)
        shown = shown | ~shown.any(dim=1, keepdim=True)
        return spatial, scores.masked_fill(~shown[..., None], -torch.inf).softmax(dim=1)
