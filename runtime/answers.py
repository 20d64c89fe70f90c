"""From what a model computes to what ``Runtime.predict`` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmcl_edge.adapters.model import ModelOutput
from mmcl_edge.learners.confidence import unknown_score
from mmcl_edge.learners.familiarity import Meter
from mmcl_edge.learners.persistence import familiarity_of
from mmcl_edge.packs import Confidence, Pack
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
        """What the torch model gave, on the host."""
        chosen = tuple((gate.index.cpu(), gate.weights.cpu()) for gate in output.gates)
        return cls(output.logits.cpu(), output.joint.cpu(), chosen)


@dataclass(frozen=True, slots=True)
class Voice:
    """How one pack's answers are worded.

    Attributes:
        labels: class names in the order of the logits.
        experts: the ids of each block's experts.
        pack_digest: names the pack.
        confidence: the pack's calibration, if it has one.
        meter: measures how far a sample lies from every class, if the calibration asks for it.
    """

    labels: tuple[str, ...]
    experts: tuple[tuple[str, ...], ...]
    pack_digest: str
    confidence: Confidence | None = None
    meter: Meter | None = None

    @classmethod
    def of(cls, pack: Pack) -> Voice:
        """That of ``pack``."""
        blocks = 1 + max((expert.block for expert in pack.manifest.experts), default=-1)
        experts = tuple(tuple(e.id for e in pack.manifest.experts if e.block == block) for block in range(blocks))
        familiarity = familiarity_of(pack)
        meter = None if familiarity is None else familiarity.meter()
        return cls(pack.manifest.label_names, experts, pack.digest, pack.manifest.confidence, meter)

    def word(self, raw: RawAnswer, latency_ms: Mapping[str, float]) -> list[Prediction]:
        """One ``Prediction`` for each sample of the pass."""
        loads = expert_load(self.experts, raw.chosen, samples=len(raw.logits))
        calibration = self.confidence
        scores: list[float | None] = [None] * len(loads)
        logits = raw.logits
        if calibration is not None:
            scores = unknown_score(logits, raw.joint, calibration.unknown, self.meter).tolist()
            logits = logits / calibration.temperature
        return [
            Prediction(
                label=self.labels[max(range(len(row)), key=row.__getitem__)],
                probabilities=dict(zip(self.labels, row, strict=True)),
                expert_load=load,
                latency_ms=latency_ms,
                pack_digest=self.pack_digest,
                unknown=None if calibration is None or score is None else score < calibration.unknown.threshold,
                unknown_score=score,
                conformal_scores=None if calibration is None else calibration.scores,
            )
            for row, load, score in zip(logits.softmax(dim=-1).tolist(), loads, scores, strict=True)
        ]


def expert_load(
    experts: Sequence[Sequence[str]], chosen: Sequence[tuple[Tensor, Tensor]], *, samples: int
) -> list[dict[str, float]]:
    """For each sample: expert id to its mean gate weight over the blocks; chosen experts only, sums to 1.

    Empty where the model has no experts.
    """
    loads: list[dict[str, float]] = [{} for _ in range(samples)]
    for ids, (index, weights) in zip(experts, chosen, strict=True):
        rows = (weights / len(chosen)).tolist()
        for load, positions, values in zip(loads, index.tolist(), rows, strict=True):
            load.update({ids[i]: value for i, value in zip(positions, values, strict=True)})
    return loads
