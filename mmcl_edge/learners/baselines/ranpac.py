"""RanPAC: random features of frozen features, and ridge regression on sums that add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl_edge.adapters.model import ModelOutput
from mmcl_edge.data.split import split_holdout
from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.projection import RandomProjection
from mmcl_edge.learners.analytic.statistics import RidgeStatistics, largest_features
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.frozen import FrozenEncoder, FrozenLearner
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import TrainedLearner
from mmcl_edge.types import Sample

MOST_FEATURES = 2_000
"""M, where the budget allows (the paper's 10,000 would take 400 MB of sums)."""
CLASSES_IN_BUDGET = 32
"""M leaves room in the budget for this many classes; more are learned as long as they fit."""
RIDGES = tuple(10.0**power for power in range(-8, 9))
"""What the ridge is chosen from (the released code's grid)."""
VALIDATION = 0.2
"""Share of the experience's own training samples that the ridge is chosen on."""
RIDGE_WITHOUT_VALIDATION = 1.0
"""The ridge where no sample can be spared."""


class FirstSession(TrainedLearner):
    """Adapters tuned on the first experience by the host's loop with cross-entropy, and not again."""

    replay_draws = 0

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"classification": run.classification(output.logits, index)}


class RanPacLearner(FrozenLearner):
    r"""Random projections and pre-trained models (McDonnell et al., NeurIPS 2023).

    .. math:: \phi(x) = ReLU(h(x) W), \quad W_o = (G + \lambda I)^{-1} Q, \quad \text{logits} = \phi(x) W_o

    ``h`` holds a unit vector a modality; G and Q are exact sums (``RidgeStatistics``), so forgetting and the order of
    experiences play no part in them. The ridge is chosen anew with each experience, on a fifth of its training
    samples, by mean squared error (the paper's rule), so through it the order may still show. M is the largest number
    of features whose sums fit into the replay budget, at most ``MOST_FEATURES``; there are no exemplars.

    Args:
        host: gives model, budget and loop.
        tune: first-session adaptation (the paper's phase 1): tune the host's adapters on the first experience, then
            freeze them. Without it h are the backbones' own features.
    """

    def __init__(self, host: Host, *, tune: bool = False) -> None:
        tuner = None
        if tune:
            tuner = FirstSession(
                host.model(), host.config, preprocess=host.preprocess, seed=host.seed, features=host.features
            )
        encoder = FrozenEncoder(host) if tuner is None else tuner.model.encoder
        super().__init__(
            encoder, host.config, preprocess=host.preprocess, seed=host.seed, features=host.features, tuner=tuner
        )
        self.sums = RidgeStatistics.empty(_features_in(host.config.replay.budget_bytes))
        generator = generator_for(host.seed, "random features")
        self.project = RandomProjection(sum(encoder.pooled_dims.values()), self.sums.features, generator=generator)
        self.weights = torch.zeros(self.sums.features, 0)
        self.ridge = RIDGE_WITHOUT_VALIDATION

    def learn(self, samples: Sequence[Sample]) -> None:
        """Choose the ridge, add the samples to the sums, solve.

        Raises:
            InputError: with so many classes the sums do not fit into the budget.
        """
        classes, budget = len(self.labels), self.config.replay.budget_bytes
        if RidgeStatistics.size_bytes(self.sums.features, classes) > budget:
            raise InputError(
                f"Expected sums for {classes} classes within {budget} bytes, but they need more; raise "
                "replay.budget_bytes before the first experience."
            )
        before = self.sums.placed(range(self.sums.classes), classes)
        phi, targets = self.project(self.embed(samples)), self.targets(samples)
        self.ridge = self._choose_ridge(before, phi, targets, self._held_out(samples))
        self.sums = before.add(phi, targets)
        self.weights = self.sums.solve(self.ridge).float()

    def scores(self, h: Tensor) -> Tensor:
        """See ``FrozenLearner.scores``."""
        return self.project(h) @ self.weights

    def learned(self) -> dict[str, Tensor]:
        """``weights`` ``(M, C)``; W follows from the seed."""
        return {"weights": self.weights}

    def memory(self) -> dict[str, Tensor]:
        """G (its upper triangle), Q and the samples of each class, in float64."""
        return self.sums.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``FrozenLearner.load``."""
        self.weights = tensors["weights"]
        sums = {n.removeprefix(MEMORY): v for n, v in tensors.items() if n.startswith(MEMORY)}
        self.sums = RidgeStatistics.from_tensors(sums)

    def _held_out(self, samples: Sequence[Sample]) -> Tensor:
        """Which samples the ridge is chosen on, ``(n,)`` bool: none where every class has a single one."""
        seed = generator_for(self.seed, self.experiences, "ridge").initial_seed()
        held = {id(sample) for sample in split_holdout(samples, fraction=VALIDATION, seed=seed)[1]}
        return torch.tensor([id(sample) in held for sample in samples])

    def _choose_ridge(self, sums: RidgeStatistics, phi: Tensor, targets: Tensor, held: Tensor) -> float:
        """The ridge of least squared error on the held-out samples, learned from the others and ``sums``."""
        if not bool(held.any()):
            return RIDGE_WITHOUT_VALIDATION
        known = sums.add(phi[~held], targets[~held])
        return min(RIDGES, key=lambda ridge: _error(known, ridge, phi[held].double(), targets[held]))


def _error(sums: RidgeStatistics, ridge: float, phi: Tensor, targets: Tensor) -> float:
    """Mean squared error; infinite where the ridge is too small to solve."""
    try:
        return float((phi @ sums.solve(ridge) - targets).square().mean())
    except InputError:
        return float("inf")


def _features_in(budget_bytes: int) -> int:
    features = largest_features(budget_bytes, classes=CLASSES_IN_BUDGET, cap=MOST_FEATURES)
    if features < 1:
        raise InputError(
            f"Expected a budget that holds the sums of one random feature, but it is {budget_bytes} bytes; "
            "raise replay.budget_bytes."
        )
    return features
