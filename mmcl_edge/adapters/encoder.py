"""The encoder (paper 1's MMEncoder): frozen backbones with an adapter in every block, in two placements.

Both share one interface: ``prepare`` turns one sample's input into what training keeps of it, ``collate``
batches those, ``forward`` encodes. ``inline`` keeps what comes before the first delta (``prefix``): deltas enter the
backbone, and gradients flow through its other segments. ``ladder`` keeps pooled features of every block: the backbone
runs once per sample.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.features import add_delta, grid_of, masked_mean, pool, resample_tokens, to_tokens
from mmcl_edge.adapters.inputs import Inputs, Item, ModalityInput, collate
from mmcl_edge.adapters.kept import Kept, apart, modalities_of, stacked
from mmcl_edge.adapters.prefix import Prefix, join, keep
from mmcl_edge.adapters.presence import Presence
from mmcl_edge.adapters.router import Gate
from mmcl_edge.types import Backbone


@dataclass(frozen=True, slots=True)
class Encoding:
    """Pooled features by modality ``(B, D_m)``, presence by modality ``(B,)``, the gate of every block."""

    pooled: dict[str, Tensor]
    present: dict[str, Tensor]
    gates: tuple[Gate, ...]


class Encoder(Protocol):
    """What a model needs of an encoder."""

    adapters: nn.ModuleList
    pooled_dims: dict[str, int]
    keeps: str
    """Names what ``prepare`` keeps, with all that it depends on but the backbones: equal names, equal tensors."""

    def prepare(self, items: Sequence[Item]) -> list[Kept]:
        """What training keeps of each sample (no gradient)."""
        ...

    def collate(self, prepared: Sequence[Kept]) -> Any:
        """A batch of prepared samples."""
        ...

    def hide(self, batch: Any, hidden: Mapping[str, Tensor]) -> Any:
        """The batch with modalities taken from the samples where ``hidden[m]`` ``(B,)`` is true."""
        ...

    def presence(self, batch: Any) -> dict[str, Tensor]:
        """Modality to ``(B,)`` bool."""
        ...

    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Encoding:
        """Encode a batch; a generator turns training noise on."""
        ...


def _normalise(x: Tensor, wanted: bool) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:]) if wanted else x


def shape_key(kept: Kept) -> Hashable:
    """Samples with equal keys can share a batch without any padding."""
    return tuple((name, tuple(value.shape)) for name, value in sorted(kept.items()))


class InlineEncoder(nn.Module):
    """Deltas enter the backbone: ``H[b+1][m] = segment[b][m](H[b][m]) + delta_b^m(H[b][1..M])`` (parallel).

    A batch is raw (``Inputs``) or prepared (``Prefix``).
    """

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        adapters: nn.ModuleList,
        *,
        map_grid: int,
        input_norm: bool,
        all_blocks: bool,
    ) -> None:
        super().__init__()
        self.backbones = dict(backbones)
        self.adapters = adapters
        self.input_norm = input_norm
        self.grids = {
            name: [None if spec.kind == "tokens" else grid_of(spec, map_grid) for spec in one.features[1:]]
            for name, one in backbones.items()
        }
        self.all_blocks = all_blocks
        self.pooled_dims = {name: _pooled_dim(one, all_blocks) for name, one in backbones.items()}
        self.keeps = f"inline, map grid {map_grid}, input norm {input_norm}"

    @staticmethod
    def dims(backbones: Mapping[str, Backbone], block: int) -> dict[str, tuple[int, int]]:
        """Widths of a block's input and output by modality: what its adapter maps between."""
        return {m: (one.features[block].dim, one.features[block + 1].dim) for m, one in backbones.items()}

    def prepare(self, items: Sequence[Item]) -> list[Kept]:
        """What comes before the first delta, of each sample."""
        with torch.no_grad():
            return [keep(self.prefix(collate([item]))) for item in items]

    def collate(self, prepared: Sequence[Kept]) -> Prefix:
        """See ``Encoder.collate``."""
        return join(prepared)

    def hide(self, batch: Inputs | Prefix, hidden: Mapping[str, Tensor]) -> Inputs | Prefix:
        """See ``Encoder.hide``."""
        if isinstance(batch, Prefix):
            return batch.hide(hidden)
        return {name: one.hide(hidden[name]) for name, one in batch.items()}

    def presence(self, batch: Inputs | Prefix) -> dict[str, Tensor]:
        """See ``Encoder.presence``."""
        return {name: one.present for name, one in (batch.after if isinstance(batch, Prefix) else batch).items()}

    def prefix(self, inputs: Inputs) -> Prefix:
        """Run stems and first segments, which no adapter reaches."""
        state = {name: self.backbones[name].stem(one.values) for name, one in inputs.items()}
        tokens = {name: self._tokens(name, 0, x, inputs[name]) for name, x in state.items()}
        after = {name: self._segment(name, 0, x, inputs[name]) for name, x in state.items()}
        return Prefix(tokens, {name: replace(inputs[name], values=x) for name, x in after.items()})

    def forward(self, batch: Inputs | Prefix, generator: torch.Generator | None = None) -> Encoding:
        """Encode a batch, raw or prepared (a prepared one is left as it is)."""
        prepared = isinstance(batch, Prefix)
        prefix = batch if isinstance(batch, Prefix) else self.prefix(batch)
        inputs, tokens = prefix.after, prefix.tokens
        presence = Presence(tuple(self.backbones), self.presence(inputs))
        state = {name: one.values for name, one in inputs.items()}  # after the first segment, without its delta
        gates = []
        means: dict[str, list[Tensor]] = {name: [] for name in state}
        for block, adapter in enumerate(self.adapters):
            if block:
                tokens = {name: self._tokens(name, block, x, inputs[name]) for name, x in state.items()}
                state = {name: self._segment(name, block, x, inputs[name]) for name, x in state.items()}
            for name, x in tokens.items():
                _learn_mask(presence, name, x, inputs[name])
            adapted = adapter(tokens, presence, generator)
            gates.append(adapted.gate)
            for name, mean in adapted.means.items():
                means[name].append(mean)
            plus = partial(add_delta, overwrite=block > 0 or not prepared)
            state = {name: plus(x, adapted.deltas[name], grid=self.grids[name][block]) for name, x in state.items()}
        output = {name: pool_output(self.backbones[name], x, inputs[name]) for name, x in state.items()}
        pooled = {name: _represent(x, means[name] if self.all_blocks else []) for name, x in output.items()}
        return Encoding(pooled, presence.by_name, tuple(gates))

    def _tokens(self, name: str, block: int, x: Tensor, one: ModalityInput) -> Tensor:
        """What the adapter of a block reads: ``(B, T*N, D)``, normalised."""
        return _normalise(to_tokens(x, one.views, grid=self.grids[name][block]), self.input_norm)

    def _segment(self, name: str, block: int, x: Tensor, one: ModalityInput) -> Tensor:
        return apart(partial(self.backbones[name].segment, block), x, one)


def _learn_mask(presence: Presence, name: str, tokens: Tensor, one: ModalityInput) -> None:
    if not presence.has_mask(name, tokens.shape[1]):
        presence.add_mask(name, tokens.shape[1], one.mask(tokens.shape[1] // one.views))


def pool_output(backbone: Backbone, x: Tensor, one: ModalityInput) -> Tensor:
    """Features after the last block, of all views, to one output vector a sample ``(B, D)``."""
    x = backbone.output(x)
    tokens = to_tokens(x, one.views, grid=(x.shape[2], x.shape[3]) if x.ndim == 4 else None)
    return pool(tokens, one.mask(tokens.shape[1] // one.views), spec=backbone.pool, views=one.views)


def _pooled_dim(backbone: Backbone, all_blocks: bool) -> int:
    blocks = sum(spec.dim for spec in backbone.features[:-1]) if all_blocks else 0
    return backbone.output_features.dim + blocks


def _represent(output: Tensor, means: Sequence[Tensor]) -> Tensor:
    """A modality's representation: normalised output features ``(B, D)`` beside the mean input of blocks."""
    return torch.cat([_normalise(output, True), *means], dim=-1)


@dataclass(frozen=True, slots=True)
class LadderFeatures:
    """Frozen features of a batch: per block ``{m: (B, P, D_b)}``, output ``{m: (B, D)}``, presence ``{m: (B,)}``."""

    blocks: tuple[dict[str, Tensor], ...]
    output: dict[str, Tensor]
    present: dict[str, Tensor]


class LadderEncoder(nn.Module):
    """A side network on frozen features: ``S[b+1][m] = S[b][m] + delta_b^m([norm H[b]; S[b]][1..M])``, ``S[0] = 0``.

    Every block's input is averaged to P tokens (over views first). The pooled output is the backbone's own
    output beside the mean of the last side state. No gradient enters a backbone (LST, METHODS part 6).
    """

    def __init__(
        self, backbones: Mapping[str, Backbone], adapters: nn.ModuleList, *, dim: int, tokens: int, all_blocks: bool
    ) -> None:
        super().__init__()
        self.backbones = dict(backbones)
        self.adapters = adapters
        self.dim = dim
        self.tokens = tokens
        self.all_blocks = all_blocks
        self.pooled_dims = {name: _pooled_dim(one, all_blocks) + dim for name, one in backbones.items()}
        self.keeps = f"ladder, {tokens} tokens"

    @staticmethod
    def dims(backbones: Mapping[str, Backbone], block: int, *, dim: int) -> dict[str, tuple[int, int]]:
        """Widths of a block's adapter by modality: frozen features beside the side state, to the side state."""
        return {name: (one.features[block].dim + dim, dim) for name, one in backbones.items()}

    def prepare(self, items: Sequence[Item]) -> list[Kept]:
        """Frozen features of each sample, one backbone pass each: ``m.output (D,)``, ``m.block0 (P, D_0)``, ..."""
        with torch.no_grad():
            return [self._kept(self.extract(collate([item]))) for item in items]

    def _kept(self, one: LadderFeatures) -> Kept:
        kept = {f"{name}.output": x[0] for name, x in one.output.items()}
        return kept | {f"{m}.block{b}": x[0] for b, block in enumerate(one.blocks) for m, x in block.items()}

    def collate(self, prepared: Sequence[Kept]) -> LadderFeatures:
        """Stack features; a modality that a sample lacks is zero and marked absent."""
        names = modalities_of(prepared)

        def parts(part: str) -> dict[str, Tensor]:
            return {name: stacked([one.get(f"{name}.{part}") for one in prepared]) for name in names}

        return LadderFeatures(
            tuple(parts(f"block{block}") for block in range(len(self.adapters))),
            parts("output"),
            {name: torch.tensor([f"{name}.output" in one for one in prepared]) for name in names},
        )

    def hide(self, batch: LadderFeatures, hidden: Mapping[str, Tensor]) -> LadderFeatures:
        """See ``Encoder.hide``."""
        present = {name: here & ~hidden[name] for name, here in batch.present.items()}
        return LadderFeatures(batch.blocks, batch.output, present)

    def presence(self, batch: LadderFeatures) -> dict[str, Tensor]:
        """See ``Encoder.presence``."""
        return batch.present

    def extract(self, inputs: Inputs) -> LadderFeatures:
        """Run the frozen backbones once and keep what the ladder reads."""
        state = {name: self.backbones[name].stem(one.values) for name, one in inputs.items()}
        blocks = []
        for block in range(len(self.adapters)):
            blocks.append({name: self._summarise(x, inputs[name]) for name, x in state.items()})
            state = {name: self.backbones[name].segment(block, x) for name, x in state.items()}
        output = {name: pool_output(self.backbones[name], x, inputs[name]) for name, x in state.items()}
        return LadderFeatures(tuple(blocks), output, {name: one.present for name, one in inputs.items()})

    def _summarise(self, x: Tensor, one: ModalityInput) -> Tensor:
        """Features of all views to ``(B, P, D)``: mean over views, then P averages over positions."""
        side = max(1, round(self.tokens**0.5))
        if x.ndim == 4:
            x = functional.adaptive_avg_pool2d(x, (side, side)).flatten(2).transpose(1, 2)  # (B*T, side^2, D)
        views = x.unflatten(0, (-1, one.views)).flatten(2)  # (B, T, N*D)
        mean = masked_mean(views, one.view_mask).unflatten(1, (-1, x.shape[-1]))  # (B, N, D)
        mask = mean.new_ones(mean.shape[:2], dtype=torch.bool) if one.token_mask is None else one.token_mask
        return resample_tokens(mean, mask, self.tokens)

    def forward(self, batch: LadderFeatures, generator: torch.Generator | None = None) -> Encoding:
        """Encode a batch of frozen features."""
        side = {name: x.new_zeros(*x.shape[:2], self.dim) for name, x in batch.blocks[0].items()}
        presence = Presence(tuple(self.backbones), batch.present)
        for name, here in batch.present.items():
            presence.add_mask(name, self.tokens, here[:, None].expand(-1, self.tokens))
        gates = []
        means: dict[str, list[Tensor]] = {name: [] for name in side}
        for adapter, features in zip(self.adapters, batch.blocks, strict=True):
            normal = {name: _normalise(x, True) for name, x in features.items()}
            tokens = {name: torch.cat([x, side[name]], dim=-1) for name, x in normal.items()}
            adapted = adapter(tokens, presence, generator)
            gates.append(adapted.gate)
            for name, x in normal.items():
                means[name].append(x.mean(dim=1))
            side = {name: side[name] + adapted.deltas[name] for name in side}
        pooled = {
            name: torch.cat([_represent(x, means[name] if self.all_blocks else []), side[name].mean(dim=1)], dim=-1)
            for name, x in batch.output.items()
        }
        return Encoding(pooled, batch.present, tuple(gates))
