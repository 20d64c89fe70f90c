"""AV-CIL: audio-guided visual attention kept alike by distillation (Pian et al., ICCV 2023)."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from mmcl_edge.adapters.heads import GrowingHead
from mmcl_edge.adapters.model import Model, ModelOutput
from mmcl_edge.learners.baselines import av_cil_losses as losses
from mmcl_edge.learners.baselines.av_cil_model import AvEncoder, AvFusion
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import LearnerState
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.trained import TrainedLearner
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.types import AUDIO, FRAMES

TEMPERATURE, TAU = 2.0, 0.05
"""Of distillation and of the contrasts (released code)."""
INSTANCE_WEIGHT, CLASS_WEIGHT, ATTENTION_WEIGHT = 0.5, 1.0, 0.5
"""lambda_I (AVE), lambda_C, and each attention's share (released code). The class contrast is normalised as in the
paper's equation 7; the released code divides by the whole row instead."""
PLAIN_EXPERIENCES = 2
"""So many experiences learn with the plain cross-entropy. The released code separates old and new classes from the
second on, but not for AVE with four classes a step, where the second is plain: few old classes are no contrast."""


class AvCilLearner(TrainedLearner):
    """AV-CIL in the common loop: its own model and losses; optimiser, epochs and byte budget are the host's.

    In the first experience: cross-entropy. Then beside it (``av_cil_losses``) distillation within each old
    experience's classes, contrasts between sound and sight, and distillation of both attentions on exemplars.
    Exemplars are random, the same number of each class: the memory divided by the classes seen, rounded down.

    Differences from the paper: features are normalised, as the host's fusion does; maps are averaged to as many
    positions as the ladder keeps; the head is the host's; there is no validation set to choose the epoch on.
    """

    has_teacher = True

    def __init__(self, host: Host) -> None:
        super().__init__(_build(host), host.config, preprocess=host.preprocess, seed=host.seed, features=host.features)
        self.sizes: list[int] = []  # classes that each experience brought
        self._old_fusion: AvFusion | None = None

    def start(self, run: ExperienceRun) -> None:
        """Remember how the model attends before it learns."""
        self.sizes.append(len(self.labels) - sum(self.sizes))
        self._old_fusion = copy.deepcopy(self._fusion) if run.teacher is not None else None

    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """See the class docstring."""
        labels = run.labels[index]
        if run.teacher is None:
            return {"classification": losses.separated_cross_entropy(output.logits, labels, old=0)}
        teacher = run.teacher.rows(index).logits
        old = sum(self.sizes[:-1]) if len(self.sizes) > PLAIN_EXPERIENCES else 0
        terms = {
            "classification": losses.separated_cross_entropy(output.logits, labels, old=old),
            "distillation": losses.distillation_by_task(
                output.logits, teacher, sizes=self.sizes[:-1], temperature=TEMPERATURE
            ),
        }
        return terms | _contrasts(output, labels) | self._attention(run, index[index >= run.current])

    def remember(self, run: ExperienceRun) -> ReplayBuffer:
        """The same number of exemplars of each class, random, within the bytes of the budget."""
        classes = len(self.labels)
        return self.buffer.updated(
            run.experience.train,
            capacity=self.config.replay.exemplars // classes * classes,
            budget_bytes=self.exemplar_budget_bytes,
            seed=generator_for(self.seed, self.experiences, "buffer").initial_seed(),
        )

    def state(self) -> LearnerState:
        """See ``Learner.state``."""
        found = super().state()
        return replace(found, facts={**found.facts, "sizes": list(self.sizes)})

    def load_state(self, state: LearnerState) -> None:
        """See ``Learner.load_state``."""
        super().load_state(state)
        self.sizes = list(state.facts["sizes"])

    @property
    def _fusion(self) -> AvFusion:
        assert isinstance(self.model.fusion, AvFusion)
        return self.model.fusion

    def _attention(self, run: ExperienceRun, exemplars: Tensor) -> dict[str, Tensor]:
        """Distillation of both attentions on the exemplars that have pictures; nothing without any."""
        encoder = self.model.encoder
        seen = [one for one in (run.prepared[int(i)] for i in exemplars) if f"{FRAMES}.tokens" in one]
        if not seen or self._old_fusion is None:
            return {}
        encoding = encoder(encoder.collate(seen))
        spatial, temporal = self._fusion.attention(encoding.pooled, encoding.present)
        with torch.no_grad():
            old_spatial, old_temporal = self._old_fusion.attention(encoding.pooled, encoding.present)
        return {
            "spatial attention": ATTENTION_WEIGHT * losses.attention_distillation(spatial, old_spatial),
            "temporal attention": ATTENTION_WEIGHT
            * losses.attention_distillation(temporal[:, None], old_temporal[:, None]),
        }


def _contrasts(output: ModelOutput, labels: Tensor) -> dict[str, Tensor]:
    """Both contrasts over the samples that have sound and pictures; nothing without any."""
    if not {AUDIO, FRAMES} <= set(output.z):
        return {}
    both = output.present[AUDIO] & output.present[FRAMES]
    if not bool(both.any()):
        return {}
    sound, sight = output.z[AUDIO][both], output.z[FRAMES][both]
    return {
        "instance contrast": INSTANCE_WEIGHT * losses.instance_contrast(sound, sight, temperature=TAU),
        "class contrast": CLASS_WEIGHT * losses.class_contrast(sound, sight, labels[both], temperature=TAU),
    }


def _build(host: Host) -> Model:
    config = host.config
    encoder = AvEncoder(host.backbones, grid=max(1, round(config.adapter.ladder_tokens**0.5)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(host.seed, "av-cil").initial_seed())
        fusion = AvFusion(encoder.pooled_dims, joint_dim=config.head.joint_dim)
    head = GrowingHead(config.head.joint_dim, kind=config.head.classifier, scale=config.head.cosine_scale)
    return Model(encoder, fusion, head)
