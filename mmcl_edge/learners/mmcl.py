"""The method of paper 1, as reconstructed in METHODS part 1: adapters, freezing, replay, four losses.

Beside what every learner shares (``trained``): its losses, and that it freezes the K most used experts of each
block after an experience, where the configuration says so. Where modalities vote, each vote has a cross-entropy of
its own; distillation concerns the joint one alone (distilling the mean vote was worse on av21's validation folds).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl_edge.adapters.model import JOINT, ModelOutput
from mmcl_edge.config import LossConfig
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.teacher import Teacher
from mmcl_edge.learners.trained import TrainedLearner
from mmcl_edge.losses import functional as losses


class MmclLearner(TrainedLearner):
    """Mixture-of-experts cross-modality adapters with expert freezing, replay, alignment and preservation."""

    has_teacher = True

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the total loss, by name (METHODS 1.5); terms of weight 0 are left out."""
        config = self.config.loss
        terms = {"classification": run.classification(output.votes[JOINT], index, log_prior=run.log_prior)}
        if len(output.votes) > 1:
            terms["votes"] = _votes(run, output, index)
        if config.align_weight:
            terms["alignment"] = config.align_weight * _alignment(config, output)
        if run.teacher is not None:
            teacher = run.teacher.rows(index)
            if config.distill_weight:
                scale = config.distill_weight * losses.distillation_scale(run.step, config.distill_scale)
                terms["distillation"] = scale * losses.distillation(
                    output.votes[JOINT], teacher.logits, temperature=config.distill_temperature
                )
            if config.preserve_weight:
                terms["preservation"] = config.preserve_weight * _preservation(config, output, teacher)
        return terms

    def settle(self, run: ExperienceRun) -> None:
        """Freeze the K most used experts of each block."""
        if self.config.adapter.freeze_experts:
            for block in self.model.blocks:
                block.freeze_used(run.experience.name)


def _votes(run: ExperienceRun, output: ModelOutput, index: Tensor) -> Tensor:
    """Sum over modalities of the cross-entropy of their own votes, each over the samples that have it."""
    terms = [output.joint.sum() * 0.0]
    for name, logits in output.votes.items():
        here = output.present.get(name)
        if here is not None and bool(here.any()):
            terms.append(run.classification(logits[here], index[here], log_prior=run.log_prior))
    return torch.stack(terms).sum()


def _alignment(config: LossConfig, output: ModelOutput) -> Tensor:
    temperature = config.align_temperature
    if config.align_target == "direct":
        return losses.direct_alignment(output.z, output.present, temperature=temperature)
    return losses.alignment(output.z, output.joint, output.present, temperature=temperature)


def _preservation(config: LossConfig, output: ModelOutput, teacher: Teacher) -> Tensor:
    """Mean of the relation loss over the joint and every modality's representation."""
    pairs = [(output.joint, teacher.joint)]
    pairs += [(z[output.present[m]], teacher.z[m][output.present[m]]) for m, z in output.z.items()]
    terms = [
        losses.preservation(
            u, old, temperature=config.preserve_temperature, teacher_temperature=config.preserve_teacher_temperature
        )
        for u, old in pairs
    ]
    return torch.stack(terms).mean()
