"""Experience replay with a reservoir (Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import TrainedLearner, tensor_bytes
from mmcl_edge.replay.buffer import ReplayBuffer, sample_bytes
from mmcl_edge.replay.reservoir import reservoir
from mmcl_edge.types import Sample


class ErLearner(TrainedLearner):
    """Cross-entropy on current samples and exemplars together; every sample seen is kept with equal probability.

    The reservoir takes samples in at the end of their experience, for the loop sees each of them in many epochs: what
    it keeps has the distribution that it would have, had they passed one by one.
    """

    def __init__(self, model: Model, config: MethodConfig, **common: Any) -> None:
        super().__init__(model, config, **common)
        self.seen = 0

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Plain cross-entropy over the whole batch."""
        return {"classification": run.classification(output.logits, index)}

    def remember(self, run: ExperienceRun) -> ReplayBuffer:
        """What the reservoir keeps."""
        offered = self.offered(run)
        return ReplayBuffer(tuple(offered[place] for place in self.drawn(offered)))

    def offered(self, run: ExperienceRun) -> list[Sample]:
        """The exemplars so far, then the experience's samples."""
        return [*self.buffer.exemplars, *run.experience.train]

    def drawn(self, offered: list[Sample], *, extra_bytes: int = 0) -> list[int]:
        """Positions in ``offered`` of what the reservoir keeps; ``extra_bytes`` go with each sample."""
        seed = generator_for(self.seed, self.experiences, "buffer").initial_seed()
        places = reservoir(
            [sample_bytes(sample) + extra_bytes for sample in offered],
            kept=len(self.buffer),
            seen=self.seen,
            capacity=self.config.replay.exemplars,
            budget_bytes=self.config.replay.budget_bytes - tensor_bytes(ErLearner.memory(self).values()),
            generator=np.random.default_rng(seed),
        )
        self.seen += len(offered) - len(self.buffer)
        return places

    def memory(self) -> dict[str, Tensor]:
        """How many samples came so far."""
        return {"seen": torch.tensor(self.seen)}

    def load_memory(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``TrainedLearner.load_memory``."""
        self.seen = int(tensors["seen"])
