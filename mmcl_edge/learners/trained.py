"""The common host of every learner that trains by gradient (METHODS part 4): model, loop, replay, byte budget.

An experience is learned by an ``ExperienceRun`` in three phases that the adapt engine can interrupt between epochs:

1. ``TrainedLearner.begin``: prepare samples, ask the teacher (the model as it is now) for its answers on all of
   them where the method has one, then grow head and experts.
2. ``ExperienceRun.train_epoch``, once an epoch: batches of current samples and, with replay, as many exemplars.
3. ``TrainedLearner.finish``: what the method settles, then what it remembers.

A method is a subclass that says what its losses are, and where it differs from the host: see the methods from
``losses`` down. The teacher never changes during an experience and inputs are not augmented, so its answers are
computed once. All randomness comes from ``(seed, experience, epoch)``: a run that was interrupted and resumed from
a checkpoint ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from mmcl_edge.adapters.experts import ExpertInfo
from mmcl_edge.adapters.model import Model, ModelOutput, load_tensors, model_tensors
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.learners.batching import run_in_batches
from mmcl_edge.learners.confidence import Answers
from mmcl_edge.learners.experience_run import ExperienceRun
from mmcl_edge.learners.features import FeatureCache, PreparedSamples
from mmcl_edge.learners.protocol import MEMORY, LearnerState, OnProgress, Preprocess
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.teacher import FlatOutput, Teacher
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.types import Sample


class TrainedLearner(ABC):
    """What methods share; see the module docstring.

    Args:
        model: encoder, fusion, head.
        config: shape of the model, budget and loop.
        preprocess: sample to tensors.
        seed: of everything random.
        labels: classes the head knows, in its order.
        experiences: how many experiences the model has seen.
        buffer: exemplars of them.
        features: keeps what training needs of samples from epoch to epoch.
    """

    has_teacher = False
    """Whether losses compare with the previous model."""
    replay_draws = 1
    """How many times each batch draws as many exemplars as it has current samples; 0: no replay."""

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
        samples = [*experience.train, *(self.buffer.exemplars if self.replay_draws else ())]
        self.features.store.release()
        prepared = self.prepare(samples)
        teacher = self._teach(prepared) if self.experiences and self.has_teacher else None
        self.experiences += 1
        self._grow(experience.classes)
        run = ExperienceRun(
            self.model,
            self.config,
            objective=self,
            experience=experience,
            prepared=prepared,
            labels=self.columns(samples),
            teacher=teacher,
            seed=self.seed,
            step=self.experiences,
            epochs=self._epochs(len(experience.train)),
            replay_draws=self.replay_draws,
        )
        self.start(run)
        return run

    def finish(self, run: ExperienceRun) -> None:
        """Phase 3 (see the module docstring)."""
        self.settle(run)
        self.buffer = self.remember(run)

    def prepare(self, samples: Sequence[Sample]) -> PreparedSamples:
        """Samples as the encoder keeps them for training."""
        return PreparedSamples(samples, preprocess=self.preprocess, encoder=self.model.encoder, cache=self.features)

    def predict(self, samples: Sequence[Sample]) -> Tensor:
        """Logits ``(len(samples), C)``; samples of one length share a batch, so none sees another's padding."""
        return self.forward(self.prepare(samples), self.scores)

    def answers(self, samples: Sequence[Sample]) -> Answers:
        """Logits, joint representations and right classes of samples; -1 for a class it does not know."""
        flat = self.forward(self.prepare(samples), lambda output: torch.cat([output.logits, output.joint], dim=1))
        logits, joint = flat.split([len(self._labels), self.model.head.weight.shape[1]], dim=1)
        return Answers(logits, joint.contiguous(), self.columns(samples))

    def columns(self, samples: Sequence[Sample]) -> Tensor:
        """The right columns ``(n,)`` int64 of samples; -1 for a class it does not know."""
        index = {label: column for column, label in enumerate(self._labels)}
        return torch.tensor([index.get(sample.label or "", -1) for sample in samples])

    def state(self) -> LearnerState:
        """See ``Learner.state``."""
        infos = [[asdict(info) for info in block.bank.infos] for block in self.model.blocks]
        return LearnerState(self.state_dict(), self.labels, self.experiences, self.buffer.exemplars, {"experts": infos})

    def load_state(self, state: LearnerState) -> None:
        """See ``Learner.load_state``."""
        experts = [[ExpertInfo(**info) for info in block] for block in state.facts["experts"]]
        known = {name: value for name, value in state.tensors.items() if not name.startswith(MEMORY)}
        load_tensors(self.model, known, experts)
        self._labels, self.experiences = list(state.labels), state.experiences
        self.buffer = ReplayBuffer(tuple(state.exemplars))
        self.load_memory({n.removeprefix(MEMORY): v.clone() for n, v in state.tensors.items() if n.startswith(MEMORY)})

    def state_dict(self) -> dict[str, Tensor]:
        """The pack's tensors, and under ``memory.`` what persists beside the model."""
        return model_tensors(self.model) | {MEMORY + name: value.clone() for name, value in self.memory().items()}

    @property
    def memory_bytes(self) -> int:
        """See ``Learner.memory_bytes``."""
        return self.buffer.size_bytes + tensor_bytes(self.memory().values())

    @property
    def trainable_parameters(self) -> int:
        """See ``Learner.trainable_parameters``."""
        return sum(value.numel() for value in model_tensors(self.model).values())

    # What a method decides

    @abstractmethod
    def losses(self, run: ExperienceRun, output: ModelOutput, index: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the total loss by name, on the samples ``index`` of ``run``."""

    def start(self, run: ExperienceRun) -> None:  # noqa: B027 - a method need not
        """Called at the end of ``begin``."""

    def adjust(self, run: ExperienceRun) -> None:  # noqa: B027
        """Called after each backward pass: change gradients here."""

    def settle(self, run: ExperienceRun) -> None:  # noqa: B027
        """Called after the last epoch, before exemplars are chosen."""

    def remember(self, run: ExperienceRun) -> ReplayBuffer:
        """The buffer after ``run``: class-balanced at random, within the bytes that ``memory`` leaves."""
        if not self.replay_draws:
            return ReplayBuffer()
        return self.buffer.updated(
            run.experience.train,
            capacity=self.config.replay.exemplars,
            budget_bytes=self.exemplar_budget_bytes,
            seed=generator_for(self.seed, self.experiences, "buffer").initial_seed(),
        )

    def scores(self, output: ModelOutput) -> Tensor:
        """What ``predict`` answers of a model's output, ``(B, C)``."""
        return output.logits

    def memory(self) -> dict[str, Tensor]:
        """Tensors that persist beside the model and the exemplars."""
        return {}

    def load_memory(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what ``memory`` gave (the labels and exemplars are back already)."""

    # Shared parts

    @property
    def exemplar_budget_bytes(self) -> int:
        """Bytes that the replay budget leaves for exemplars."""
        return max(0, self.config.replay.budget_bytes - tensor_bytes(self.memory().values()))

    def forward(self, prepared: PreparedSamples, read: Callable[[ModelOutput], Tensor]) -> Tensor:
        """``read`` of every sample's output, in order, in batches of samples of one shape, without gradient."""
        return run_in_batches(
            prepared,
            lambda batch: read(self.model(batch)),
            encoder=self.model.encoder,
            batch_size=self.config.train.batch_size,
        )

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
        flat = FlatOutput(self.model)
        return flat.restore(self.forward(prepared, flat.flatten))


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(value.nbytes for value in tensors)
