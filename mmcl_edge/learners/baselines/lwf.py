"""Learning without forgetting (Li and Hoiem, TPAMI 2018): the previous model teaches on the new samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmcl_edge.adapters.model import JOINT, Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.trained import TrainedLearner
from mmcl_edge.losses import functional as losses


class LwfLearner(TrainedLearner):
    """Cross-entropy, and distillation of all old logits on the current samples; no exemplars.

    The distillation is the divergence from the previous model's softened answers, times T squared, over all old classes
    at once, as in the paper; its warm-up of the new rows is left out: every method here trains the same steps.

    Args:
        model: see ``TrainedLearner``.
        config: see ``TrainedLearner``.
        alpha: weight of the distillation; 1 in the paper.
        temperature: T; 2 in the paper.
        own_classes: take the cross-entropy over the experience's classes alone, so that it cannot push the old ones
            down (as AV-CIL does it: Pian et al., ICCV 2023); otherwise over all classes seen.
        common: see ``TrainedLearner``.
    """

    has_teacher = True
    replay_draws = 0

    def __init__(
        self,
        model: Model,
        config: MethodConfig,
        *,
        alpha: float = 1.0,
        temperature: float = 2.0,
        own_classes: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(model, config, **common)
        self.alpha = alpha
        self.temperature = temperature
        self.own_classes = own_classes

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, and after the first experience the weighted distillation."""
        terms = {"classification": self._classification(run, output.logits, index)}
        if run.teacher is not None:
            teacher = run.teacher.rows(index)
            kept = losses.distillation(output.votes[JOINT], teacher.logits, temperature=self.temperature)
            terms["distillation"] = self.alpha * kept
        return terms

    def _classification(self, run: ExperienceRun, logits: Tensor, index: Tensor) -> Tensor:
        if not self.own_classes:
            return run.classification(logits, index)
        columns = torch.tensor([self._labels.index(name) for name in run.experience.classes])
        target = (run.labels[index][:, None] == columns).int().argmax(dim=1)
        smoothing = self.config.train.label_smoothing
        return losses.classification(logits[:, columns], target, label_smoothing=smoothing)
