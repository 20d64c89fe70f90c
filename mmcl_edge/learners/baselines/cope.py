"""CoPE (De Lange and Tuytelaars, ICCV 2021): prototypes that move slowly, in a balanced replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import TrainedLearner
from mmcl_edge.losses.ppp import pseudo_prototypical_proxy


class CopeLearner(TrainedLearner):
    """The pseudo-prototypical proxy loss on joint representations of length 1; answers by the nearest prototype.

    A class's prototype begins as a random direction. After each step it moves towards the mean representation of the
    batch's samples of the class: ``p <- norm(momentum p + (1 - momentum) norm(mean))``. The softmax head takes no part.
    Prototypes change within an experience and no checkpoint of a run holds them: one that was cut begins anew.

    Args:
        model: see ``TrainedLearner``.
        config: see ``TrainedLearner``.
        temperature: T of the loss; 0.1 in the paper.
        momentum: of prototypes; 0.99 in the paper, whose streams have a thousand times the steps: at that rate
            the prototypes of some tens of steps would stay where they began.
        common: see ``TrainedLearner``.
    """

    def __init__(
        self, model: Model, config: MethodConfig, *, temperature: float = 0.1, momentum: float = 0.9, **common: Any
    ) -> None:
        super().__init__(model, config, **common)
        self.temperature = temperature
        self.momentum = momentum
        self.prototypes = torch.zeros(0, model.head.weight.shape[1])
        self._last = (torch.zeros(0, 0), torch.zeros(0))

    def start(self, run: ExperienceRun) -> None:
        """Draw the prototypes of new classes."""
        shape = (len(self._labels) - len(self.prototypes), self.prototypes.shape[1])
        drawn = torch.randn(shape, generator=generator_for(self.seed, self.experiences, "prototypes"))
        self.prototypes = torch.cat([self.prototypes, functional.normalize(drawn, dim=1)])

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """The loss on current samples and as many exemplars."""
        z = functional.normalize(output.joint, dim=1)
        self._last = (z.detach(), run.labels[index])
        proxy = pseudo_prototypical_proxy(z, run.labels[index], self.prototypes, temperature=self.temperature)
        return {"proxies": proxy}

    def adjust(self, run: ExperienceRun) -> None:
        """Move the prototypes of the classes in the batch."""
        z, labels = self._last
        for column in labels.unique():
            mean = functional.normalize(z[labels == column].mean(dim=0), dim=0)
            moved = self.momentum * self.prototypes[column] + (1 - self.momentum) * mean
            self.prototypes[column] = functional.normalize(moved, dim=0)

    def scores(self, output: ModelOutput) -> Tensor:
        """Cosine similarity to each prototype over the temperature."""
        return functional.normalize(output.joint, dim=1) @ self.prototypes.T / self.temperature

    def memory(self) -> dict[str, Tensor]:
        """The prototypes."""
        return {"prototypes": self.prototypes}

    def load_memory(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``TrainedLearner.load_memory``."""
        self.prototypes = tensors["prototypes"]
