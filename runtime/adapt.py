"""Adapt: learn a task folder on the device, and keep the result only if the old classes stand.

Rules, in this order; whatever refuses, the pack in use stays in use and nothing of the workspace changes
(but its cache of features):

1. The workspace is locked; a second adapt is refused.
2. The task is read and decoded; corrupt files are skipped and counted; each class must have enough samples.
   A part of each class is held out. Sounds are cut to their loudest window.
3. The run's id follows from everything that decides its result (task, configuration, seed, bundle, pack in use,
   threads), so the same command finds its own unfinished run, and its own finished one.
4. The model of the pack in use (or a new one) learns epoch by epoch; after each, a checkpoint replaces the last one.
   A process killed in between loses at most one epoch, and ends with the same bits as one that was not (unless
   ``max_minutes`` cut it short).
5. Accuracy on held-out samples of old and new classes is measured before and after. If old classes lost more
   than the tolerance, the run is recorded as refused and the old pack stays.
6. Otherwise: confidence is calibrated on the held-out samples that are kept (a pack of too few goes without);
   the pack is written, with the shared space of the one before as it is; then its exemplars, then the run's record,
   and last the link ``current`` moves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.data.clips import clipped
from mmcl_edge.data.streams import Experience
from mmcl_edge.data.task_folder import TaskFolder, decode_task, read_task
from mmcl_edge.errors import CalibrationError, InputError
from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.learners.confidence import Calibrated, calibrate_on
from mmcl_edge.learners.persistence import contents_of
from mmcl_edge.packs import Pack, PackContents
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.runtime.adaptation import Adaptation, AdaptEvents
from mmcl_edge.runtime.course import Course, Pace, Pupil, Start, course_for
from mmcl_edge.runtime.holdout import accuracies, divide, retrieval_figures
from mmcl_edge.runtime.replay_store import Exemplars
from mmcl_edge.runtime.run_record import AdaptReport, RunRecord
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Sample

__all__ = ["AdaptEvents", "AdaptReport", "AdaptRequest", "adapt"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptRequest:
    """What to learn and how.

    Attributes:
        name: the task's name.
        data: its folder; ``None`` is the workspace's ``tasks/<name>``.
        method: the method's configuration; adapters and head must be those of the pack in use, if there is one.
        adapt: treatment of the data, and the acceptance rule.
        provider: execution provider of the backbones.
        threads: of the backbones; ``None`` takes every core.
    """

    name: str
    data: Path | str | None = None
    method: MethodConfig = field(default_factory=MethodConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    provider: str = "auto"
    threads: int | None = None


def adapt(workspace: Workspace, request: AdaptRequest, events: AdaptEvents | None = None) -> AdaptReport:
    """Learn a task (the rules stand in the module docstring).

    Raises:
        LockedError: another process works in the workspace.
        TaskDataError: the task's data cannot be learned from.
        BundleError: the bundle is missing or broken.
        PackError: the pack in use is broken.
        InputError: the request does not fit the pack in use.
        StorageError: a file cannot be written.
    """
    with workspace.lock():
        return _Adaptation(workspace, request, events or AdaptEvents()).run()


class _Adaptation(Adaptation):
    """One run of ``adapt``, its steps in the order of the rules."""

    def __init__(self, workspace: Workspace, request: AdaptRequest, events: AdaptEvents) -> None:
        super().__init__(workspace, request.adapt, request.provider, request.threads, events)
        self.request = request
        self.taught = None if self.parent is None or self.parent.config.learner == "none" else self.parent
        """The pack in use, if it knows classes."""

    def run(self) -> AdaptReport:
        task = self._read_task()
        asked = self.request_digest(
            {"task": [task.name, task.digest], "method": self.request.method.model_dump(mode="json")}
        )
        finished = self.finished(asked)
        if finished is not None:
            return finished
        run_id = self.run_id(asked)
        record = RunRecord(self.workspace.run_folder(run_id))
        self.events.on_stage("decode")
        samples, skipped = decode_task(
            task,
            max_frames=self.how.max_frames,
            transform=lambda sample: clipped(sample, self.how.clip_s),
        )
        old = self.store.read(None if self.parent is None else self.parent.digest)
        if self.taught is not None and not old.holdout:
            logger.warning("the pack in use has no held-out samples here, so its classes cannot be checked")
        train, holdout = divide(samples, self.how, old)
        course = self._course(old)
        learner = course.pupil
        before = accuracies(learner, old.holdout, holdout)
        epochs, resumed = self._train(course, Experience(task.name, train, holdout, task.classes), record)
        self.events.on_stage("evaluate")
        after = accuracies(learner, old.holdout, holdout)
        report = AdaptReport(
            run_id=run_id,
            task=task.name,
            task_digest=task.digest,
            request_digest=asked,
            classes=task.classes,
            accepted=self.accepts(before["old"], after["old"]),
            before=before,
            after=after,
            tolerance=self.how.tolerance,
            train_samples=len(train),
            holdout_samples=len(holdout),
            skipped=len(skipped),
            exemplars=len(course.exemplars),
            exemplar_bytes=ReplayBuffer(course.exemplars).size_bytes,
            epochs=epochs,
            resumed_from_epoch=resumed,
            parent_digest=None if self.parent is None else self.parent.digest,
        )
        held = ReplayBuffer(old.holdout).updated(
            holdout,
            capacity=self.how.holdout_per_class * len(learner.labels),
            budget_bytes=learner.config.replay.budget_bytes,
            seed=self.how.seed,
        )
        self.events.on_stage("write")
        if not report.accepted:
            return self.refuse(report, record)
        kept = Exemplars(course.exemplars, held.exemplars, old.pairs)
        return self.swap(report, self._contents(report, course, train, kept), kept, record)

    def _read_task(self) -> TaskFolder:
        known = () if self.parent is None else self.parent.manifest.label_names
        folder = Path(self.request.data or self.workspace.task_folder(self.request.name))
        self.workspace.task_folder(self.request.name)  # the name must be one a folder can have
        self.events.on_stage("read")
        minimum = self.how.min_samples
        return read_task(folder, name=self.request.name, known_classes=known, min_samples=minimum)

    def _course(self, old: Exemplars) -> Course:
        method = self.request.method
        if self.taught is not None:
            _check_same_model(method, self.taught)
        start = Start(
            method,
            parent=self.taught,
            exemplars=old.train,
            backbones=self.runtime.backbones,
            preprocess=self.runtime.preprocess,
            seed=self.how.seed,
            features=self.features(),
        )
        return course_for(start)

    def _train(self, course: Course, experience: Experience, record: RunRecord) -> tuple[int, int | None]:
        self.events.on_stage("prepare")
        events = self.events
        pace = Pace(lambda: events.on_stage("train"), events.on_progress, events.on_epoch, self._out_of_time)
        return course.train(experience, record, pace)

    def _out_of_time(self) -> bool:
        limit = self.how.max_minutes
        return limit is not None and time.monotonic() - self.started >= 60 * limit

    def _contents(
        self, report: AdaptReport, course: Course, train: Sequence[Sample], exemplars: Exemplars
    ) -> PackContents:
        manifest = None if self.parent is None else self.parent.manifest
        counts: dict[str, int] = {} if manifest is None else dict(manifest.sample_counts)
        for sample in train:
            counts[sample.label or ""] = counts.get(sample.label or "", 0) + 1
        return contents_of(
            course.learned(),
            course.pupil.config,
            bundle_digest=self.runtime.bundle.family,
            labels=course.pupil.labels,
            parents=() if self.parent is None else (self.parent,),
            sample_counts=counts,
            experiences=(*(() if manifest is None else manifest.experiences), report.task),
            evaluation=retrieval_figures(self.parent) | report.evaluation(),
            calibrated=self._calibrated(course.pupil, exemplars),
            space=None if self.parent is None else space_of(self.parent),
        )

    def _calibrated(self, learner: Pupil, kept: Exemplars) -> Calibrated | None:
        """Confidence, fitted on all held-out samples that are kept; ``None`` where they are too few."""
        rate = self.how.false_alarm_rate
        try:
            return calibrate_on(learner, train=kept.train, holdout=kept.holdout, false_alarm_rate=rate)
        except CalibrationError as error:
            logger.info("the new pack's confidence was not calibrated: %s", error)
            return None


def _check_same_model(method: MethodConfig, parent: Pack) -> None:
    if method.learner != parent.config.learner:
        raise InputError(
            f"The pack in use was made by the learner '{parent.config.learner}', but '{method.learner}' was asked for; "
            "leave the option out, or start a new workspace (MMCL_EDGE_HOME) to change it."
        )
    for part in ("adapter", "head"):
        asked, has = getattr(method, part), getattr(parent.config, part)
        for name in type(asked).model_fields:
            if getattr(asked, name) != getattr(has, name):
                raise InputError(
                    f"The pack in use has {part}.{name} = {getattr(has, name)!r}, but {getattr(asked, name)!r} was "
                    "asked for; leave the option out, or start a new workspace (MMCL_EDGE_HOME) to change it."
                )
