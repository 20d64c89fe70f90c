"""The analytic learner: closed-form heads on frozen features. No gradient, no replay, no order, no forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.evidence import Evidence, with_constant
from mmcl_edge.learners.analytic.moments import MomentEncoder, Moments
from mmcl_edge.learners.analytic.projection import SubspaceProjection
from mmcl_edge.learners.analytic.statistics import RidgeStatistics, largest_features
from mmcl_edge.learners.baselines.frozen import FrozenLearner
from mmcl_edge.learners.batching import run_in_batches
from mmcl_edge.learners.features import PreparedSamples
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.types import Sample

MOST_FEATURES = 2048
"""M of each head, where the budget allows: 4,096 gains under a point on validation folds."""
CLASSES_IN_BUDGET = 64
"""M leaves room in the budget for this many classes."""
FUSED = "fused"
KEPT_AS = torch.float32

Heads = Literal["modalities", "fused", "both"]


class AnalyticLearner(FrozenLearner):
    r"""Ridge heads, one a modality, whose evidence adds up (RanPAC's statistics, MMAL's modality-wise heads; ours).

    .. math:: \text{logits}(x) = \sum_{m \in \text{present}} e^m(h^m(x) P^m)

    ``h`` are moments of every frozen block (``MomentEncoder``), P a fixed random subspace, e see ``Evidence``. The
    heads read one modality each, so a broken one cannot spoil the features of another, and a missing one is just not
    heard. All that is learned are sums: the result is the ridge regression on everything seen, whatever the order and
    however it was spread over devices. The projection follows from a fixed seed, so that devices' sums fit together.

    Args:
        host: gives backbones and budget.
        heads: ``modalities``; or one on all features side by side (``fused``); or ``both``.
    """

    def __init__(self, host: Host, *, heads: Heads = "modalities") -> None:
        encoder = MomentEncoder(host.backbones)
        super().__init__(encoder, host.config, preprocess=host.preprocess, seed=host.seed, features=host.features)
        self._dims = dict(sorted(encoder.pooled_dims.items()))
        inputs = dict(self._dims) if heads != "fused" else {}
        if heads != "modalities":
            inputs[FUSED] = sum(self._dims.values())
        most = _features_in(host.config.replay.budget_bytes // len(inputs))
        self.projections = {name: SubspaceProjection(dim, most, name=name) for name, dim in inputs.items()}
        self.sums = {
            name: RidgeStatistics.empty(one.features + 1, dtype=KEPT_AS) for name, one in self.projections.items()
        }
        self.heads: dict[str, Evidence] = {}

    def embed(self, samples: Sequence[Sample]) -> Tensor:
        """``(n, sum of D_m + M)``: the moments of each modality, zero where absent, then who is there (0 or 1)."""
        encoder = self.encoder
        prepared = PreparedSamples(samples, preprocess=self.preprocess, encoder=encoder, cache=self.features)

        def read(batch: Moments) -> Tensor:
            rows = len(next(iter(batch.present.values())))
            parts = [batch.values.get(name, torch.zeros(rows, dim)) for name, dim in self._dims.items()]
            here = [batch.present.get(name, torch.zeros(rows, dtype=torch.bool)) for name in self._dims]
            return torch.cat([*parts, torch.stack(here, dim=1).float()], dim=1)

        return run_in_batches(prepared, read, encoder=encoder, batch_size=self.config.train.batch_size)

    def learn(self, samples: Sequence[Sample]) -> None:
        """Add the samples to the sums of every head that hears them; solve.

        Raises:
            InputError: with so many classes the sums do not fit into the budget.
        """
        h, targets, classes = self.embed(samples), self.targets(samples), len(self.labels)
        for name, features, here in self._inputs(h):
            sums = self.sums[name].placed(range(self.sums[name].classes), classes)
            self.sums[name] = sums.add(with_constant(features[here]), targets[here]) if bool(here.any()) else sums
        if self.memory_bytes > self.config.replay.budget_bytes:
            raise InputError(
                f"Expected sums for {classes} classes within {self.config.replay.budget_bytes} bytes, but they take "
                f"{self.memory_bytes}; raise replay.budget_bytes before the first experience."
            )
        self._solve()

    def scores(self, h: Tensor) -> Tensor:
        """See ``FrozenLearner.scores``: the evidence of every head that hears the sample, summed."""
        total = torch.zeros(len(h), len(self.labels), dtype=torch.float64)
        for name, features, here in self._inputs(h):
            if name in self.heads:
                total += torch.where(here[:, None], self.heads[name](features), 0.0)
        return total.float()

    def learned(self) -> dict[str, Tensor]:
        """Each head's weights ``(M, C)``; they follow from the sums."""
        return {f"{name}.weights": head.weights.float() for name, head in self.heads.items()}

    def memory(self) -> dict[str, Tensor]:
        """Each head's sums: the triangular root of G, Q and the samples of each class, in float32."""
        return {f"{name}.{part}": value for name, one in self.sums.items() for part, value in one.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See ``FrozenLearner.load``."""
        for name in self.sums:
            prefix = f"{MEMORY}{name}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            self.sums[name] = RidgeStatistics.from_tensors(own)
        self._solve()

    def _solve(self) -> None:
        self.heads = {name: Evidence(sums) for name, sums in self.sums.items() if len(sums.root)}

    def _inputs(self, h: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        """Each head's name, its features ``(n, M)``, and which samples it hears ``(n,)`` bool."""
        *parts, here = h.split([*self._dims.values(), len(self._dims)], dim=1)
        known = {name: (part, here[:, i] > 0) for i, (name, part) in enumerate(zip(self._dims, parts, strict=True))}
        known[FUSED] = torch.cat(parts, dim=1), (here > 0).all(dim=1)
        return [(name, project(known[name][0]), known[name][1]) for name, project in self.projections.items()]


def _features_in(budget_bytes: int) -> int:
    """M of a head with this budget (its constant counts too)."""
    found = largest_features(budget_bytes, classes=CLASSES_IN_BUDGET, cap=MOST_FEATURES + 1, dtype=KEPT_AS) - 1
    if found < 1:
        raise InputError(
            f"Expected a budget that holds the sums of each head, but it is {budget_bytes} bytes a head; "
            "raise replay.budget_bytes."
        )
    return found
