"""The method of paper 1, as reconstructed in METHODS part 1: adapters, freezing, replay, four losses.

An experience is learned by an ``ExperienceRun`` in three phases that the adapt engine can interrupt between epochs:

1. ``MmclLearner.begin``: prepare samples, ask the teacher (the model as it is now) for its answers on all of
   them, then grow the head and, where fewer than K experts can still learn, append fresh ones.
2. ``ExperienceRun.train_epoch``, once an epoch: batches of current samples and as many exemplars.
3. ``MmclLearner.finish``: freeze the K most used experts of each block, refill the replay buffer.

The teacher never changes during an experience and inputs are not augmented, so its answers are computed once.
All randomness comes from ``(seed, experience, epoch)``: a run that was interrupted and resumed from a checkpoint
ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mmcl_edge.adapters.model import Model, ModelOutput, model_tensors
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.confidence import Answers
from mmcl_edge.learners.experience_run import ExperienceRun, Teacher
from mmcl_edge.learners.features import FeatureCache, PreparedSamples
from mmcl_edge.learners.protocol import OnProgress, Preprocess
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.types import Sample


class MmclLearner:
    """Mixture-of-experts cross-modality adapters with expert freezing, replay, alignment and preservation.

    Args:
        model: encoder, fusion, head.
        config: the method's configuration.
        preprocess: sample to tensors.
        seed: of everything random.
        labels: classes the head knows, in its order.
        experiences: how many experiences the model has seen.
        buffer: exemplars of them.
        features: keeps what training needs of samples from epoch to epoch.
    """

    def __init__(
        self,
        model: Model,
        config: MethodConfig,
        *,
        preprocess: Preprocess,
        seed: int,
        labels: Sequence[str] = (),
        experiences: int = 0,
        buffer: ReplayBuffer | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.preprocess = preprocess
        self.seed = seed
        self.experiences = experiences
        self.buffer = buffer or ReplayBuffer()
        self.features = features or FeatureCache()
        self._labels = list(labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        return tuple(self._labels)

    def observe(self, experience: Experience, on_progress: OnProgress | None = None) -> None:
        """Learn one experience: ``begin``, every epoch, ``finish``."""
        run = self.begin(experience)
        while run.epoch < run.epochs:
            run.train_epoch(on_progress)
        self.finish(run)

    def begin(self, experience: Experience) -> ExperienceRun:
        """Phase 1 (see the module docstring)."""
        samples = [*experience.train, *self.buffer.exemplars]
        self.features.store.release()
        prepared = self.prepare(samples)
        teacher = self._teach(prepared) if self.experiences else None
        self.experiences += 1
        self._grow(experience.classes)
        index = {label: column for column, label in enumerate(self._labels)}
        return ExperienceRun(
            self.model,
            self.config,
            experience=experience,
            prepared=prepared,
            labels=torch.tensor([index[sample.label or ""] for sample in samples]),
            teacher=teacher,
            seed=self.seed,
            step=self.experiences,
            epochs=self._epochs(len(experience.train)),
        )

    def finish(self, run: ExperienceRun) -> None:
        """Phase 3 (see the module docstring)."""
        if self.config.adapter.freeze_experts:
            for block in self.model.blocks:
                block.freeze_used(run.experience.name)
        self.buffer = self.buffer.updated(
            run.experience.train,
            capacity=self.config.replay.exemplars,
            budget_bytes=self.config.replay.budget_bytes,
            seed=generator_for(self.seed, self.experiences, "buffer").initial_seed(),
        )

    def prepare(self, samples: Sequence[Sample]) -> PreparedSamples:
        """Samples as the encoder keeps them for training."""
        return PreparedSamples(samples, preprocess=self.preprocess, encoder=self.model.encoder, cache=self.features)

    def predict(self, samples: Sequence[Sample]) -> Tensor:
        """Logits ``(len(samples), C)``; samples of one length share a batch, so none sees another's padding."""
        return self._forward(self.prepare(samples), lambda output: output.logits)

    def answers(self, samples: Sequence[Sample]) -> Answers:
        """Logits, joint representations and right classes of samples; -1 for a class it does not know."""
        flat = self._forward(self.prepare(samples), lambda output: torch.cat([output.logits, output.joint], dim=1))
        logits, joint = flat.split([len(self._labels), self.model.head.weight.shape[1]], dim=1)
        index = {label: column for column, label in enumerate(self._labels)}
        return Answers(
            logits, joint.contiguous(), torch.tensor([index.get(sample.label or "", -1) for sample in samples])
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The pack's tensors."""
        return model_tensors(self.model)

    def _epochs(self, samples: int) -> int:
        """The configured number of epochs, or as many as the least number of steps takes."""
        train = self.config.train
        return max(train.epochs, math.ceil(train.min_steps / math.ceil(samples / train.batch_size)))

    def _grow(self, classes: Sequence[str]) -> None:
        generator = generator_for(self.seed, self.experiences, "grow")
        new = [name for name in classes if name not in self._labels]
        self._labels += new
        self.model.head.grow(len(new), generator)
        for block in self.model.blocks:
            missing = self.config.adapter.active_experts - block.trainable_experts
            if missing > 0:
                block.grow(self.config.adapter.active_experts, generator, zero_gate=True)
            block.reset_usage()

    def _teach(self, prepared: PreparedSamples) -> Teacher:
        names = tuple(self.model.encoder.pooled_dims)

        def everything(output: ModelOutput) -> Tensor:
            blank = torch.zeros_like(output.joint)
            return torch.cat([output.logits, output.joint, *(output.z.get(name, blank) for name in names)], dim=1)

        flat = self._forward(prepared, everything)
        width = self.model.head.weight.shape[1]
        logits, joint, *z = flat.split([len(self._labels), width, *[width] * len(names)], dim=1)
        return Teacher(logits, joint, dict(zip(names, z, strict=True)))

    def _forward(self, prepared: PreparedSamples, read: Callable[[ModelOutput], Tensor]) -> Tensor:
        """``read`` of every sample's output, in order, in batches of samples of one shape."""
        encoder = self.model.encoder
        keys = [str(shape) for shape in prepared.shapes]
        order = sorted(range(len(prepared)), key=lambda i: (keys[i], i))
        rows: dict[int, Tensor] = {}
        size = self.config.train.batch_size
        with torch.no_grad():
            for _, group in groupby(order, key=keys.__getitem__):
                members = list(group)
                for part in (members[i : i + size] for i in range(0, len(members), size)):
                    rows |= zip(part, read(self.model(encoder.collate([prepared[i] for i in part]))), strict=True)
        return torch.stack([rows[i] for i in range(len(prepared))])
