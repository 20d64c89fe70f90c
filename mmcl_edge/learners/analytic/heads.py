"""The closed-form heads: their projections, their sums, and the answers that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.evidence import Evidence, with_constant
from mmcl_edge.learners.analytic.projection import SubspaceProjection
from mmcl_edge.learners.analytic.statistics import RidgeStatistics, largest_features

MOST_FEATURES = 2048
"""M of each head, where the budget allows: 4,096 gains under a point on validation folds."""
CLASSES_IN_BUDGET = 64
"""M leaves room in the budget for this many classes."""
FUSED = "fused"
KEPT_AS = torch.float32

Heads = Literal["modalities", "fused", "both"]
Sums = Mapping[str, RidgeStatistics]
"""A head's name to its sums."""


class EvidenceHeads:
    """One head a modality (or one on all features), each with its sums; ``sums`` is replaced, never changed.

    Args:
        dims: width D_m of each modality's features, in the order of ``h``.
        heads: ``modalities``; or one on all features side by side, zero where one is absent (``fused``); or ``both``.
        budget_bytes: that the sums of all heads may take; decides M, so sums of equal budgets fit together.
    """

    def __init__(self, dims: Mapping[str, int], *, heads: Heads, budget_bytes: int) -> None:
        self.dims = dict(dims)
        inputs = dict(dims) if heads != "fused" else {}
        if heads != "modalities":
            inputs[FUSED] = sum(dims.values())
        most = _features_in(budget_bytes // len(inputs))
        self.projections = {name: SubspaceProjection(dim, most, name=name) for name, dim in inputs.items()}
        self.sums: Sums = self.empty(0)
        self._answering: dict[str, Evidence] | None = {}

    def empty(self, classes: int) -> dict[str, RidgeStatistics]:
        """Sums of no samples for every head."""
        return {
            name: RidgeStatistics.empty(one.features + 1, classes, dtype=KEPT_AS)
            for name, one in self.projections.items()
        }

    def counted(self, h: Tensor, targets: Tensor) -> dict[str, RidgeStatistics]:
        """Sums of these samples alone: features h ``(n, sum of D_m + modalities)``, one-hot targets ``(n, C)``."""
        found = self.empty(targets.shape[1])
        for name, features, here in self._inputs(h):
            if bool(here.any()):
                found[name] = found[name].add(with_constant(features[here]), targets[here])
        return found

    def put(self, sums: Sums) -> None:
        """Answer from these sums from now on.

        Raises:
            InputError: they are of other heads, or of another M.
        """
        for name, own in self.sums.items():
            if name not in sums or sums[name].features != own.features:
                found = f"sums of {sums[name].features - 1} features" if name in sums else "none"
                raise InputError(
                    f"Expected sums of {own.features - 1} features for the head '{name}', but found {found}; "
                    "use the budget that they were made with."
                )
        self.sums = dict(sums)
        self._answering = None

    @property
    def answering(self) -> dict[str, Evidence]:
        """The heads that have seen samples, solved when first needed."""
        if self._answering is None:
            self._answering = {name: Evidence(one) for name, one in self.sums.items() if len(one.root)}
        return self._answering

    def scores(self, h: Tensor, classes: int) -> Tensor:
        """Features ``(n, sum of D_m + modalities)`` to logits ``(n, C)``: the evidence of every head, summed."""
        total = torch.zeros(len(h), classes, dtype=torch.float64)
        for name, features, here in self._inputs(h):
            if name in self.answering:
                total += torch.where(here[:, None], self.answering[name](features), 0.0)
        return total.float()

    def _inputs(self, h: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        """Each head's name, its features ``(n, M)``, and which samples it hears ``(n,)`` bool."""
        *parts, here = h.split([*self.dims.values(), len(self.dims)], dim=1)
        known = {name: (part, here[:, i] > 0) for i, (name, part) in enumerate(zip(self.dims, parts, strict=True))}
        known[FUSED] = torch.cat(parts, dim=1), torch.ones(len(h), dtype=torch.bool)
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
