"""From what a model computes to what ``Runtime.predict`` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.packs import Pack
from mmcl_edge.types import Prediction


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One pass of a model, whoever ran it.

    Attributes:
        logits: ``(B, C)``.
        joint: joint representation ``(B, J)``.
        chosen: for each block the positions of the experts ``(B, K)`` and their weights ``(B, K)``.
    """

    logits: Tensor
    joint: Tensor
    chosen: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, output: ModelOutput) -> RawAnswer:
        """What the torch model gave."""
        return cls(output.logits, output.joint, tuple((gate.index, gate.weights) for gate in output.gates))


@dataclass(frozen=True, slots=True)
class Voice:
    """How one pack's answers are worded.

    Attributes:
        labels: class names in the order of the logits.
        experts: the ids of each block's experts.
        pack_digest: names the pack.
    """

    labels: tuple[str, ...]
    experts: tuple[tuple[str, ...], ...]
    pack_digest: str

    @classmethod
    def of(cls, pack: Pack, model: Model) -> Voice:
        """That of ``pack``, whose model is ``model``."""
        experts = tuple(tuple(info.id for info in block.bank.infos) for block in model.blocks)
        return cls(pack.manifest.label_names, experts, pack.digest)

    def word(self, raw: RawAnswer, latency_ms: Mapping[str, float]) -> list[Prediction]:
        """One ``Prediction`` for each sample of the pass."""
        loads = expert_load(self.experts, raw.chosen)
        return [
            Prediction(
                label=self.labels[max(range(len(row)), key=row.__getitem__)],
                probabilities=dict(zip(self.labels, row, strict=True)),
                expert_load=load,
                latency_ms=latency_ms,
                pack_digest=self.pack_digest,
            )
            for row, load in zip(raw.logits.softmax(dim=-1).tolist(), loads, strict=True)
        ]


def expert_load(experts: Sequence[Sequence[str]], chosen: Sequence[tuple[Tensor, Tensor]]) -> list[dict[str, float]]:
    """For each sample: expert id to its mean gate weight over the blocks; chosen experts only, sums to 1."""
    loads: list[dict[str, float]] = [{} for _ in range(len(chosen[0][0]))]
    for ids, (index, weights) in zip(experts, chosen, strict=True):
        rows = (weights / len(chosen)).tolist()
        for load, positions, values in zip(loads, index.tolist(), rows, strict=True):
            load.update({ids[i]: value for i, value in zip(positions, values, strict=True)})
    return loads
