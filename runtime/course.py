"""How a learner takes one task: what ``adapt`` asks of it, for learners by gradient and for those that only count."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mmcl_edge.adapters.model import Model, build_model
from mmcl_edge.config import MethodConfig
from mmcl_edge.data.streams import Experience
from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.addends import Addend, addends_of, total, union
from mmcl_edge.learners.analytic.learner import AnalyticLearner
from mmcl_edge.learners.confidence import Answers
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.mmcl import MmclLearner
from mmcl_edge.learners.persistence import model_from_pack
from mmcl_edge.learners.protocol import OnProgress, Preprocess
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.packs import Pack
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.runtime.run_record import RunRecord
from mmcl_edge.types import Backbone, Sample

logger = logging.getLogger(__name__)


class Pupil(Protocol):
    """A learner as far as measuring and calibrating need it."""

    config: MethodConfig

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits' columns."""
        ...

    def predict(self, samples: Sequence[Sample]) -> Tensor:
        """Logits ``(len(samples), C)``."""
        ...

    def answers(self, samples: Sequence[Sample]) -> Answers:
        """What it says about labelled samples."""
        ...


@dataclass(frozen=True)
class Start:
    """What a course starts from.

    Attributes:
        method: the configuration that was asked for.
        parent: the pack in use, if there is one; its model is of the same configuration.
        exemplars: samples kept from earlier experiences.
        backbones: of the bundle.
        preprocess: sample to tensors.
        seed: of everything random.
        features: where prepared samples are kept.
    """

    method: MethodConfig
    parent: Pack | None
    exemplars: Sequence[Sample]
    backbones: Mapping[str, Backbone]
    preprocess: Preprocess
    seed: int
    features: FeatureCache


@dataclass(frozen=True)
class Pace:
    """How training goes on: what happens when it begins, its progress, what follows an epoch, whether to stop early."""

    on_begin: Callable[[], None]
    on_progress: OnProgress
    on_epoch: Callable[[int, Mapping[str, float]], None]
    out_of_time: Callable[[], bool]


class Course(Protocol):
    """One learner and one task."""

    @property
    def pupil(self) -> Pupil:
        """The learner."""
        ...

    def train(self, experience: Experience, record: RunRecord, pace: Pace) -> tuple[int, int | None]:
        """Learn; returns the epochs done, and the one it resumed after (``None``: it was not interrupted)."""
        ...

    @property
    def exemplars(self) -> tuple[Sample, ...]:
        """Samples to keep for later experiences."""
        ...

    def learned(self) -> Model | Sequence[Addend]:
        """What the pack shall hold."""
        ...


def course_for(start: Start) -> Course:
    """The course of the learner that the method names.

    Raises:
        PackError: the parent does not fit the bundle.
        InputError: the method names no learner of classes.
    """
    if start.method.learner == "none":
        raise InputError(
            "Expected a learner of classes (mmcl or analytic), but the pack or the request has none; name one, or "
            "teach classes first with 'mmcl-edge adapt --task NAME'."
        )
    return CountingCourse(start) if start.method.learner == "analytic" else GradientCourse(start)


class GradientCourse:
    """The method of paper 1: epochs with checkpoints, so that a killed run loses at most one."""

    def __init__(self, start: Start) -> None:
        method, parent = start.method, start.parent
        if parent is None:
            generator = generator_for(start.seed, "model")
            model = build_model(method.adapter, method.head, start.backbones, generator=generator)
        else:
            model = model_from_pack(parent, start.backbones)
        self.pupil = MmclLearner(
            model,
            method,
            preprocess=start.preprocess,
            seed=start.seed,
            labels=() if parent is None else parent.manifest.label_names,
            experiences=0 if parent is None else len(parent.manifest.experiences),
            buffer=ReplayBuffer(tuple(start.exemplars)),
            features=start.features,
        )

    def train(self, experience: Experience, record: RunRecord, pace: Pace) -> tuple[int, int | None]:
        """See ``Course.train``."""
        run = self.pupil.begin(experience)
        checkpoint = record.checkpoint()
        if checkpoint is not None:
            run.load_state_dict(checkpoint)
        resumed = None if checkpoint is None else run.epoch
        pace.on_begin()
        while run.epoch < run.epochs:
            losses = run.train_epoch(pace.on_progress)
            record.save_checkpoint(run.state_dict())
            pace.on_epoch(run.epoch, losses)
            if pace.out_of_time():
                logger.warning("stopped after epoch %d of %d: the time allowed is used up", run.epoch, run.epochs)
                break
        self.pupil.finish(run)
        return run.epoch, resumed

    @property
    def exemplars(self) -> tuple[Sample, ...]:
        """See ``Course.exemplars``."""
        return self.pupil.buffer.exemplars

    def learned(self) -> Model:
        """See ``Course.learned``."""
        return self.pupil.model


class CountingCourse:
    """The analytic learner: one look at each sample. It keeps none, only its sums, one addend more a run."""

    def __init__(self, start: Start) -> None:
        host = Host(start.backbones, start.method, start.preprocess, start.seed, start.features)
        self.pupil = AnalyticLearner(host)
        self.parents: list[Addend] = [] if start.parent is None else addends_of(start.parent)
        if start.parent is not None:
            labels, done = start.parent.manifest.label_names, len(start.parent.manifest.experiences)
            self.pupil.resume(labels, total(self.parents, labels, self.pupil.sums), experiences=done)

    def train(self, experience: Experience, record: RunRecord, pace: Pace) -> tuple[int, int | None]:
        """See ``Course.train``; there is one epoch, and nothing to resume."""
        pace.on_begin()
        self.pupil.observe(experience, pace.on_progress)
        pace.on_epoch(1, {})
        return 1, None

    @property
    def exemplars(self) -> tuple[Sample, ...]:
        """See ``Course.exemplars``."""
        return ()

    def learned(self) -> list[Addend]:
        """See ``Course.learned``: the parent's addends and this run's; the same samples again count once."""
        return union([self.parents, [Addend.of(self.pupil.contribution, self.pupil.labels)]])
