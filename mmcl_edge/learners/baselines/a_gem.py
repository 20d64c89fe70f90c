"""Averaged gradient episodic memory (Chaudhry et al., ICLR 2019): steps that would hurt exemplars are turned aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.baselines.draws import parts
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.trained import TrainedLearner


def project(gradient: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
    r""":math:`g - \frac{g^T r}{r^T r} r` where :math:`g^T r < 0`, otherwise g (equation 11).

    Args:
        gradient: g, one tensor a parameter.
        reference: r, of the same shapes.
    """
    dot = sum(float((g * r).sum()) for g, r in zip(gradient, reference, strict=True))
    if dot >= 0:
        return list(gradient)
    share = dot / sum(float(r.square().sum()) for r in reference)
    return [g - share * r for g, r in zip(gradient, reference, strict=True)]


class AGemLearner(TrainedLearner):
    """Cross-entropy on current samples, whose gradient may not oppose that of a batch of exemplars.

    The gradient is projected before it is clipped; what AdamW makes of it need not be orthogonal any more.
    """

    def __init__(self, model: Model, config: MethodConfig, **common: Any) -> None:
        super().__init__(model, config, **common)
        self._reference: tuple[Tensor, ...] = ()

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the current samples; that of the exemplars only leaves its gradient for ``adjust``."""
        own, *draws = parts(run, index)
        self._reference = ()
        if draws:
            loss = run.classification(output.logits[draws[0]], index[draws[0]])
            weights = list(run.parameters().values())
            self._reference = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
        return {"classification": run.classification(output.logits[own], index[own])}

    def adjust(self, run: ExperienceRun) -> None:
        """Project the gradient."""
        if self._reference:
            weights = run.parameters().values()
            gradient = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights]
            for one, projected in zip(weights, project(gradient, self._reference), strict=True):
                one.grad = projected
