"""iCaRL (Rebuffi et al., CVPR 2017): herded exemplars, sigmoid targets, the nearest mean of exemplars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.model import JOINT, Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.trained import TrainedLearner, tensor_bytes
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.replay.herding import herding
from mmcl_edge.types import Sample


def sigmoid_targets(labels: Tensor, classes: int, *, old: Tensor | None, own: Tensor) -> Tensor:
    """Targets ``(B, C)``: one-hot in the columns of the experience's classes, the previous model's sigmoids elsewhere.

    Args:
        labels: ``(B,)`` int64.
        classes: C.
        old: the previous model's logits ``(B, C_old)``, if there is one.
        own: columns of the experience's classes; one that is old too is taught anew.
    """
    target = functional.one_hot(labels, classes).float()
    if old is None:
        return target
    taught = functional.pad(old.sigmoid(), (0, classes - old.shape[1]))
    keep = torch.arange(classes) < old.shape[1]
    keep[own] = False
    return torch.where(keep, taught, target)


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Minus the distance of unit features ``(B, J)`` to unit means ``(C, J)``: ``(B, C)``."""
    difference = functional.normalize(features, dim=1)[:, None] - functional.normalize(means, dim=1)
    distance: Tensor = torch.linalg.vector_norm(difference, dim=2)
    return -distance


class IcarlLearner(TrainedLearner):
    """Binary cross-entropy against one-hot and old sigmoids; answers by the nearest mean of exemplars.

    Features are joint representations of length 1. Where exemplars differ in bytes, the budget is met by the balanced
    buffer's rule, with herding's order in place of a random one. A class that the budget leaves no exemplar keeps
    the last mean that it had.
    """

    has_teacher = True

    def __init__(self, model: Model, config: MethodConfig, **common: Any) -> None:
        super().__init__(model, config, **common)
        self.means = torch.zeros(0, model.head.weight.shape[1])

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Algorithm 3's loss, summed over classes, mean over samples."""
        old = None if run.teacher is None else run.teacher.logits[index]
        own = torch.tensor([self._labels.index(name) for name in run.experience.classes])
        logits = output.votes[JOINT]  # what the teacher answered too
        target = sigmoid_targets(run.labels[index], logits.shape[1], old=old, own=own)
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        return {"classification": entropy / len(index)}

    def remember(self, run: ExperienceRun) -> ReplayBuffer:
        """Herded exemplars of each class, and the means of what is kept."""
        self._learn_means(run.experience.train)  # of all samples, for classes that get no exemplar; sets their bytes
        ranked: dict[str, list[Sample]] = {}
        for name in dict.fromkeys(sample.label or "" for sample in run.experience.train):
            group = [sample for sample in run.experience.train if sample.label == name]
            ranked[name] = [group[place] for place in herding(self.embed(group))]
        budget = self.config.replay.budget_bytes - tensor_bytes(self.memory().values())
        buffer = self.buffer.extended(ranked, capacity=self.config.replay.exemplars, budget_bytes=max(0, budget))
        self._learn_means(buffer.exemplars)
        return buffer

    def embed(self, samples: list[Sample]) -> Tensor:
        """Joint representations of length 1, ``(n, J)``."""
        return functional.normalize(self.forward(self.prepare(samples), lambda output: output.joint), dim=1)

    def _learn_means(self, samples: Any) -> None:
        means = functional.pad(self.means, (0, 0, 0, len(self._labels) - len(self.means)))
        if samples:
            features, columns = self.embed(list(samples)), self.columns(samples)
            for column in columns.unique():
                means[column] = functional.normalize(features[columns == column].mean(dim=0), dim=0)
        self.means = means

    def scores(self, output: ModelOutput) -> Tensor:
        """Minus the distance to each class's mean."""
        return nearest_mean(output.joint, self.means)

    def memory(self) -> dict[str, Tensor]:
        """The means."""
        return {"means": self.means}

    def load_memory(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``TrainedLearner.load_memory``."""
        self.means = tensors["means"]
