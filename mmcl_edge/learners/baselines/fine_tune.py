"""Fine-tuning: the lower bound, which does nothing against forgetting."""

from __future__ import annotations

from torch import Tensor

from mmcl_edge.adapters.model import ModelOutput
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.trained import TrainedLearner


class FineTuneLearner(TrainedLearner):
    """Cross-entropy over all classes seen, on the current samples alone; nothing persists beside the model."""

    replay_draws = 0

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Plain cross-entropy."""
        return {"classification": run.classification(output.logits, index)}
