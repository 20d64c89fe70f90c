"""Prompt tokens between the segments of frozen backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcl_edge.adapters.encoder import Encoding, pool_output
from mmcl_edge.adapters.features import masked_mean, to_tokens
from mmcl_edge.adapters.inputs import Item, ModalityInput, collate
from mmcl_edge.adapters.kept import Kept, apart, modalities_of, stacked
from mmcl_edge.errors import InputError
from mmcl_edge.learners.baselines.prompt_pools import PromptPool
from mmcl_edge.learners.frozen import normal
from mmcl_edge.types import Backbone


def takes_prompts(backbone: Backbone) -> bool:
    """Whether tokens can be put between its segments: their number is free, and all of them are averaged."""
    return backbone.pool.kind == "mean" and all(
        one.kind == "tokens" and one.tokens is None for one in backbone.features
    )


def sites_of(backbones: Mapping[str, Backbone], layers: Sequence[int]) -> dict[str, int]:
    """Sites ``<modality>_<layer>`` and their widths, at the inputs of those of ``layers`` that a backbone has.

    Raises:
        InputError: no backbone takes prompts.
    """
    taking = {name: one for name, one in backbones.items() if takes_prompts(one)}
    if not taking:
        raise InputError(
            f"Prompts need a backbone of tokens whose number is free, but none of {sorted(backbones)} is one; "
            "choose another learner or bundle."
        )
    return {
        f"{name}_{layer}": one.features[layer].dim
        for name, one in taking.items()
        for layer in layers
        if layer < one.depth
    }


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Stem tokens of modalities that take prompts, features ``(B, D)`` of the others, queries ``(B, D)``, presence."""

    tokens: dict[str, ModalityInput]
    pooled: dict[str, Tensor]
    query: dict[str, Tensor]
    present: dict[str, Tensor]


class PromptEncoder(nn.Module):
    """Frozen backbones with prompt tokens (deep prompt tuning; Jia et al., Visual prompt tuning, ECCV 2022).

    Tokens are put before a segment's input and take the place of the prompt that came out of the segment before; after
    the last site they stay, so the pooled features read them. A backbone without a free token axis (a convolutional
    one) gives its frozen features. The query is every modality's frozen output, each of length 1, side by side.
    Kept of a sample: stem tokens, queries, frozen features; what no prompt reaches runs once.

    Args:
        backbones: modality to backbone.
        pool: gives the prompts of ``sites_of`` these backbones.
        all_blocks: put the mean input of every block beside the output.
    """

    def __init__(self, backbones: Mapping[str, Backbone], pool: PromptPool, *, all_blocks: bool) -> None:
        super().__init__()
        self.backbones = dict(backbones)
        self.pool = pool
        self.all_blocks = all_blocks
        self.adapters = nn.ModuleList()
        self.pooled_dims = {name: self._width(one) for name, one in backbones.items()}
        self.keeps = f"prompts, {'all blocks' if all_blocks else 'output'}"

    def _width(self, backbone: Backbone) -> int:
        blocks = sum(one.dim for one in backbone.features[:-1]) if self.all_blocks else 0
        return backbone.output_features.dim + blocks

    def prepare(self, items: Sequence[Item]) -> list[Kept]:
        """``m.query (D,)`` of each sample, and ``m.tokens (N, D)`` with ``m.valid ()``, or ``m.pooled (D,)``."""
        with torch.no_grad():
            return [self._keep(collate([item])) for item in items]

    def _keep(self, inputs: Mapping[str, ModalityInput]) -> Kept:
        kept: Kept = {}
        for name, one in inputs.items():
            backbone = self.backbones[name]
            x = backbone.stem(one.values)
            if takes_prompts(backbone):
                kept[f"{name}.tokens"] = x[0]
                kept[f"{name}.valid"] = torch.tensor(x.shape[1]) if one.token_mask is None else one.token_mask.sum()
            pooled = self._pooled(name, x, one, {})[0]
            kept[f"{name}.query"] = pooled[: backbone.output_features.dim]
            if not takes_prompts(backbone):
                kept[f"{name}.pooled"] = pooled
        return kept

    def collate(self, prepared: Sequence[Kept]) -> PromptBatch:
        """See ``Encoder.collate``."""
        names = modalities_of(prepared)

        def parts(part: str) -> dict[str, list[Tensor | None]]:
            found = {name: [one.get(f"{name}.{part}") for one in prepared] for name in names}
            return {name: values for name, values in found.items() if any(value is not None for value in values)}

        valid = parts("valid")
        return PromptBatch(
            {name: _padded(values, valid[name]) for name, values in parts("tokens").items()},
            {name: stacked(values) for name, values in parts("pooled").items()},
            {name: stacked(values) for name, values in parts("query").items()},
            {name: torch.tensor([f"{name}.query" in one for one in prepared]) for name in names},
        )

    def hide(self, batch: PromptBatch, hidden: Mapping[str, Tensor]) -> PromptBatch:
        """See ``Encoder.hide``."""
        present = {name: here & ~hidden[name] for name, here in batch.present.items()}
        tokens = {name: one.hide(hidden[name]) for name, one in batch.tokens.items()}
        return replace(batch, tokens=tokens, present=present)

    def presence(self, batch: PromptBatch) -> dict[str, Tensor]:
        """See ``Encoder.presence``."""
        return batch.present

    def query(self, batch: PromptBatch) -> Tensor:
        """``(B, Q)``: a unit vector a modality, zero where it is absent."""
        rows = len(next(iter(batch.present.values())))
        parts = []
        for name, one in self.backbones.items():
            if name in batch.query:
                parts.append(functional.normalize(batch.query[name], dim=1) * batch.present[name][:, None])
            else:
                parts.append(torch.zeros(rows, one.output_features.dim))
        return torch.cat(parts, dim=1)

    def forward(self, batch: PromptBatch, generator: torch.Generator | None = None) -> Encoding:
        """Encode a batch; a generator says that it is for training."""
        prompts = self.pool.select(self.query(batch), training=generator is not None)
        pooled = dict(batch.pooled)
        for name, one in batch.tokens.items():
            own = {int(s.rsplit("_", 1)[1]): tokens for s, tokens in prompts.items() if s.rsplit("_", 1)[0] == name}
            pooled[name] = self._pooled(name, one.values, one, own)
        return Encoding(pooled, batch.present, ())

    def _pooled(self, name: str, x: Tensor, one: ModalityInput, prompts: Mapping[int, Tensor]) -> Tensor:
        """Features ``(B, D)`` from the stem's output, with ``prompts`` ``(B, P, D)`` at the inputs of their layers."""
        backbone, length, means = self.backbones[name], 0, []
        wide = one
        for layer in range(backbone.depth):
            if layer in prompts:
                x = torch.cat([prompts[layer], x[:, length:]], dim=1)
                length = prompts[layer].shape[1]
                wide = _lengthened(one, length)
            if self.all_blocks:
                means.append(_mean(x, wide))
            x = apart(partial(backbone.segment, layer), x, wide)
        return torch.cat([normal(pool_output(backbone, x, wide)), *means], dim=1)


def _mean(x: Tensor, one: ModalityInput) -> Tensor:
    """Mean of the normalised tokens or pixels of all views, ``(B, D)``."""
    tokens = normal(to_tokens(x, one.views, grid=(x.shape[2], x.shape[3]) if x.ndim == 4 else None))
    return masked_mean(tokens, one.mask(tokens.shape[1] // one.views))


def _padded(tokens: Sequence[Tensor | None], valid: Sequence[Tensor | None]) -> ModalityInput:
    """Stem tokens ``(N, D)`` of each sample as one input, padded to the longest and masked accordingly."""
    values = stacked(tokens)  # (B, N, D)
    real = torch.tensor([0 if count is None else int(count) for count in valid])
    return ModalityInput(
        values,
        (real > 0)[:, None],
        torch.arange(values.shape[1])[None] < real[:, None],
        lengths=tuple(0 if one is None else len(one) for one in tokens),
    )


def _lengthened(one: ModalityInput, count: int) -> ModalityInput:
    """The masks of ``one`` for features with ``count`` more tokens before its own."""
    mask = None if one.token_mask is None else functional.pad(one.token_mask, (count, 0), value=True)
    lengths = None if one.lengths is None else tuple(length + count if length else 0 for length in one.lengths)
    return replace(one, token_mask=mask, lengths=lengths)
