"""The analytic heads as a model that predicts: what a pack of the analytic learner becomes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmcl_edge.adapters.model import JOINT, ModelOutput
from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import InputError, PackError
from mmcl_edge.learners.analytic.addends import addends_of, total
from mmcl_edge.learners.analytic.heads import EvidenceHeads
from mmcl_edge.learners.analytic.moments import MomentEncoder, Moments
from mmcl_edge.packs import Pack
from mmcl_edge.types import Backbone


class AnalyticModel(nn.Module):
    """Moments of frozen backbones and the heads that read them. It has no experts and no joint representation.

    Raises:
        PackError: the pack's sums are malformed or of another bundle or budget.
    """

    def __init__(self, pack: Pack, backbones: Mapping[str, Backbone]) -> None:
        super().__init__()
        self.encoder = MomentEncoder(backbones)
        self.heads = heads_for(pack.config, self.encoder)
        self.classes = len(pack.manifest.labels)
        try:
            self.heads.put(total(addends_of(pack), pack.manifest.label_names, self.heads.sums))
        except InputError as error:
            raise PackError(f"The pack {pack.digest[:16]}... does not fit this bundle: {error}") from error
        _ = self.heads.answering

    def forward(self, batch: Moments, generator: torch.Generator | None = None) -> ModelOutput:
        """Classify a batch of moments; ``joint`` is of width 0."""
        logits = self.heads.scores(self.encoder.rows(batch).cpu(), self.classes)
        none: Tensor = logits.new_zeros(len(logits), 0)
        return ModelOutput(logits, none, {}, batch.present, (), {JOINT: logits})


def heads_for(config: MethodConfig, encoder: MomentEncoder) -> EvidenceHeads:
    """One head a modality, without sums."""
    dims = dict(sorted(encoder.pooled_dims.items()))
    return EvidenceHeads(dims, heads="modalities", budget_bytes=config.replay.budget_bytes)
