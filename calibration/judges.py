"""What accuracy means for a bundle: answers of the pack in use, or, before there is one, of the nearest class mean.

Where the data carries no classes, the float bundle's own answers are the truth: accuracy is agreement with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.encoder import pool_output
from mmcl_edge.adapters.inputs import Item, collate
from mmcl_edge.errors import PackError
from mmcl_edge.learners.persistence import predictor_from_pack
from mmcl_edge.packs import Pack
from mmcl_edge.types import Backbone

Backbones = Mapping[str, Backbone]
Truth = Literal["labels", "float answers"]


class Judge(Protocol):
    """Answers through given backbones."""

    kind: str

    def run(self, backbones: Backbones, item: Item) -> object:
        """One pass of one sample, through every graph."""
        ...

    def answers(self, backbones: Backbones, items: Sequence[Item]) -> list[str]:
        """One answer a sample."""
        ...


class PackJudge:
    """The answers of a pack; its adapters are where they are when it predicts."""

    kind = "pack"

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def run(self, backbones: Backbones, item: Item) -> object:
        """See ``Judge.run``."""
        return self.answers(backbones, [item])

    def answers(self, backbones: Backbones, items: Sequence[Item]) -> list[str]:
        """See ``Judge.answers``; samples one by one, as ``Runtime.predict`` sees them."""
        model = predictor_from_pack(self.pack, backbones)
        if model is None:
            raise PackError(
                f"Expected a pack that knows classes, but {self.pack.digest[:16]}... holds a shared space alone; "
                "name another, or none."
            )
        labels = self.pack.manifest.label_names
        with torch.inference_mode():
            batches = (model.encoder.collate(model.encoder.prepare([item])) for item in items)
            return [labels[int(model(batch).logits[0].argmax())] for batch in batches]


class NearestMeanJudge:
    """The class whose mean output vector is nearest (cosine, averaged over the modalities that a sample has).

    The means are the float backbones', of samples that give ranges; without labels each of those is its own class.
    """

    kind = "nearest class mean"

    def __init__(self, backbones: Backbones, items: Sequence[Item], labels: Sequence[str | None]) -> None:
        self.means: dict[str, dict[str, Tensor]] = {}
        groups: dict[str, dict[str, list[Tensor]]] = {}
        for number, (item, label) in enumerate(zip(items, labels, strict=True)):
            for modality, vector in self.run(backbones, item).items():
                groups.setdefault(modality, {}).setdefault(label or str(number), []).append(vector)
        for modality, classes in groups.items():
            self.means[modality] = {name: torch.stack(vectors).mean(dim=0) for name, vectors in classes.items()}

    def run(self, backbones: Backbones, item: Item) -> dict[str, Tensor]:
        """Normalised output vector by modality, ``(D,)``."""
        found = {}
        with torch.inference_mode():
            for modality, one in collate([item]).items():
                backbone = backbones[modality]
                x = backbone.stem(one.values)
                for index in range(backbone.depth):
                    x = backbone.segment(index, x)
                pooled = pool_output(backbone, x, one)[0]
                found[modality] = functional.layer_norm(pooled, pooled.shape)
        return found

    def answers(self, backbones: Backbones, items: Sequence[Item]) -> list[str]:
        """See ``Judge.answers``."""
        return [self._nearest(self.run(backbones, item)) for item in items]

    def _nearest(self, vectors: Mapping[str, Tensor]) -> str:
        scores: dict[str, list[float]] = {}
        for modality, vector in vectors.items():
            for name, mean in self.means[modality].items():
                scores.setdefault(name, []).append(float(functional.cosine_similarity(vector, mean, dim=0)))
        return max(sorted(scores), key=lambda name: sum(scores[name]) / len(scores[name]))


@dataclass(frozen=True)
class Trial:
    """Samples, what is right for each, and who answers.

    Attributes:
        judge: answers.
        items: samples that gave no range.
        truth: the right answers.
        kind: where those come from.
        float_answers: what the float bundle says.
    """

    judge: Judge
    items: tuple[Item, ...]
    truth: tuple[str, ...]
    kind: Truth
    float_answers: tuple[str, ...]

    @classmethod
    def of(cls, judge: Judge, backbones: Backbones, items: Sequence[Item], labels: Sequence[str | None]) -> Trial:
        """A trial on ``items``; ``labels`` are the truth if every sample has one that the judge can give."""
        answers = judge.answers(backbones, items)
        known = judge.pack.manifest.label_names if isinstance(judge, PackJudge) else labels
        given = tuple(label for label in labels if label is not None and label in known)
        if len(given) == len(items):
            return cls(judge, tuple(items), given, "labels", tuple(answers))
        return cls(judge, tuple(items), tuple(answers), "float answers", tuple(answers))

    @property
    def float_accuracy(self) -> float:
        """Of the float bundle."""
        return _share(self.float_answers, self.truth)

    def accuracy(self, backbones: Backbones) -> tuple[float, float]:
        """Accuracy with these backbones, and the share of answers equal to the float bundle's."""
        answers = self.judge.answers(backbones, self.items)
        return _share(answers, self.truth), _share(answers, self.float_answers)


def _share(answers: Sequence[str], truth: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(answers, truth, strict=True)) / len(truth)
