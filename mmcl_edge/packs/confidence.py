"""What a pack knows of its own reliability: the field ``confidence`` of ``pack.json``."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmcl_edge.types import FrozenModel

PREFIX = "confidence."
"""Names of the tensors that belong to the unknown score begin so."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class UnknownRule(FrozenModel):
    """When an answer counts as unknown: its score is below ``threshold``.

    The score is ``logit_weight * (greatest logit) - distance_weight * (distance to the nearest class) - offset``.
    """

    kind: Literal["distance-and-logit", "logit"]
    logit_weight: Weight
    distance_weight: Weight = 0.0
    offset: Finite
    threshold: Finite
    false_alarm_rate: float = Field(gt=0, lt=1, description="Share of known samples that may be called unknown.")


class Confidence(FrozenModel):
    """Measured on held-out samples of the pack's classes, none of which it was trained on."""

    temperature: float = Field(gt=0, allow_inf_nan=False, description="Logits are divided by it.")
    unknown: UnknownRule
    scores: tuple[Share, ...] = Field(
        min_length=1, description="One minus the probability of the right class, of each sample, ascending."
    )
    classes: int = Field(ge=1, description="How many classes the samples are of.")
    ece_before: Share = Field(description="Expected calibration error at temperature 1.")
    ece_after: Share = Field(description="The same after calibration, cross-validated.")

    @property
    def samples(self) -> int:
        """How many held-out samples it was measured on."""
        return len(self.scores)

    @model_validator(mode="after")
    def _ascending(self) -> Confidence:
        if any(one > other for one, other in pairwise(self.scores)):
            raise ValueError("the scores of held-out samples should be in ascending order")
        return self
