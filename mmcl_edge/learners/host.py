"""What every learner is given, the same for all, so that comparisons are fair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmcl_edge.adapters.model import Model, build_model
from mmcl_edge.config import MethodConfig
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.protocol import Preprocess
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.types import Backbone


@dataclass(frozen=True)
class Host:
    """Backbones, configuration (shape, budget, loop), seed and cached features of one run.

    Attributes:
        backbones: modality to frozen backbone.
        config: shape of the trainable model, byte budget, optimisation loop.
        preprocess: sample to tensors.
        seed: of everything random.
        features: where prepared samples are kept.
    """

    backbones: Mapping[str, Backbone]
    config: MethodConfig
    preprocess: Preprocess
    seed: int
    features: FeatureCache = field(default_factory=FeatureCache)

    def model(self) -> Model:
        """A new model; the same for every learner with the same configuration and seed."""
        generator = generator_for(self.seed, "model")
        return build_model(self.config.adapter, self.config.head, self.backbones, generator=generator)
