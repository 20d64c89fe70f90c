"""Joint training: the upper bound, which keeps every sample and starts anew with each experience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mmcl_edge.adapters.model import Model
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.baselines.fine_tune import FineTuneLearner
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.host import Host
from mmcl_edge.replay.buffer import ReplayBuffer


class JointLearner(FineTuneLearner):
    """At each experience a new model learns all samples so far.

    Its buffer heeds no budget: it bounds what others can reach, and is no learner for a device.

    Args:
        model: of the first experience.
        config: shape of the model and loop; the byte budget is ignored.
        fresh: makes the model of each experience.
        common: see ``TrainedLearner``.
    """

    def __init__(self, model: Model, config: MethodConfig, *, fresh: Callable[[], Model], **common: Any) -> None:
        super().__init__(model, config, **common)
        self.fresh = fresh

    @classmethod
    def on(cls, host: Host) -> JointLearner:
        """One on a host."""
        return cls(
            host.model(),
            host.config,
            fresh=host.model,
            preprocess=host.preprocess,
            seed=host.seed,
            features=host.features,
        )

    def begin(self, experience: Experience) -> ExperienceRun:
        """A new model, and all samples so far as one experience."""
        classes = tuple(dict.fromkeys([*self.labels, *experience.classes]))
        self.model, self._labels = self.fresh(), []
        samples = [*self.buffer.exemplars, *experience.train]
        return super().begin(replace(experience, train=samples, classes=classes))

    def remember(self, run: ExperienceRun) -> ReplayBuffer:
        """Every sample."""
        return ReplayBuffer(tuple(run.experience.train))
