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
   the pack is written, then its exemplars, then the run's record, and last the link ``current`` moves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.data.clips import clipped
from mmcl_edge.data.streams import Experience
from mmcl_edge.data.task_folder import TaskFolder, decode_task, read_task
from mmcl_edge.errors import CalibrationError, InputError
from mmcl_edge.fileio import canonical_json, sha256_bytes
from mmcl_edge.learners.confidence import Calibrated, calibrate_on
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.persistence import CALIBRATE, contents_of
from mmcl_edge.learners.protocol import OnProgress
from mmcl_edge.packs import Confidence, Pack, PackContents, read_manifest, read_pack, write_pack
from mmcl_edge.replay.buffer import ReplayBuffer
from mmcl_edge.runtime.course import Course, Pace, Pupil, Start, course_for
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.runtime.holdout import accuracies, divide
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.run_record import AdaptReport, RunRecord
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Sample

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


@dataclass(frozen=True)
class AdaptEvents:
    """Callbacks of a run, for progress: the stage that begins, the step done, the epoch done."""

    on_stage: Callable[[str], None] = lambda stage: None
    on_progress: OnProgress = lambda progress: None
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda epoch, losses: None


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


class _Adaptation:
    """One run of ``adapt``, its steps in the order of the rules."""

    def __init__(self, workspace: Workspace, request: AdaptRequest, events: AdaptEvents) -> None:
        self.workspace = workspace
        self.request = request
        self.events = events
        self.started = time.monotonic()
        self.store = ReplayStore(workspace.replay_path)
        self.runtime = Runtime.open(workspace.bundle_path, provider=request.provider, threads=request.threads)
        current = workspace.current_pack()
        self.parent = None if current is None else read_pack(current, bundle_digest=self.runtime.bundle.family)

    def run(self) -> AdaptReport:
        task = self._read_task()
        run_id = self._run_id(task)
        finished = self._finished(task)
        if finished is not None:
            return finished
        record = RunRecord(self.workspace.run_folder(run_id))
        self.events.on_stage("decode")
        samples, skipped = decode_task(
            task,
            max_frames=self.request.adapt.max_frames,
            transform=lambda sample: clipped(sample, self.request.adapt.clip_s),
        )
        old = self.store.read(None if self.parent is None else self.parent.digest)
        if self.parent is not None and not old.holdout:
            logger.warning("the pack in use has no held-out samples here, so its classes cannot be checked")
        train, holdout = divide(samples, self.request.adapt, old)
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
            request_digest=self._request_digest(task),
            classes=task.classes,
            accepted=before["old"] is None
            or (after["old"] or 0.0) >= before["old"] - self.request.adapt.tolerance - 1e-9,
            before=before,
            after=after,
            tolerance=self.request.adapt.tolerance,
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
            capacity=self.request.adapt.holdout_per_class * len(learner.labels),
            budget_bytes=learner.config.replay.budget_bytes,
            seed=self.request.adapt.seed,
        )
        return self._keep(report, course, train, Exemplars(course.exemplars, held.exemplars), record)

    def _read_task(self) -> TaskFolder:
        known = () if self.parent is None else self.parent.manifest.label_names
        folder = Path(self.request.data or self.workspace.task_folder(self.request.name))
        self.workspace.task_folder(self.request.name)  # the name must be one a folder can have
        self.events.on_stage("read")
        minimum = self.request.adapt.min_samples
        return read_task(folder, name=self.request.name, known_classes=known, min_samples=minimum)

    def _request_digest(self, task: TaskFolder) -> str:
        """Digest of what was asked, whatever pack it starts from."""
        asked = {
            "task": [task.name, task.digest],
            "method": self.request.method.model_dump(mode="json"),
            "adapt": self.request.adapt.model_dump(mode="json"),
        }
        return sha256_bytes(canonical_json(asked | self._engine()))

    def _engine(self) -> dict[str, Any]:
        """What computes, and how: everything but the request that decides the bits of a result."""
        threads = self.runtime.sessions.plan
        return {
            "bundle": self.runtime.bundle.digest,
            "threads": [threads.onnx, threads.torch],
            "provider": self.runtime.sessions.provider,
            "versions": {name: version(name) for name in ("mmcl-edge", "torch", "onnxruntime")},
        }

    def _features(self) -> FeatureCache:
        """Features of samples, kept in the workspace for every run by the same engine."""
        how, scope = self.request.adapt, sha256_bytes(canonical_json(self._engine()))
        store = DiskFeatures(self.workspace.features_path, how.feature_budget_bytes)
        return FeatureCache(store, how.feature_precision, scope)

    def _run_id(self, task: TaskFolder) -> str:
        parent = None if self.parent is None else self.parent.digest
        return sha256_bytes(canonical_json([self._request_digest(task), parent]))[:16]

    def _finished(self, task: TaskFolder) -> AdaptReport | None:
        """The record of the run that made the pack in use, or that was refused, if it was asked for the same."""
        wanted = self._request_digest(task)
        own = RunRecord(self.workspace.run_folder(self._run_id(task)))
        refused = own.report()
        if refused is not None and not refused.accepted and self.request.adapt.max_minutes is None:
            own.drop_checkpoint()  # a cut right after the report left it
            return replace(refused, repeated=True)
        made = self._same_model()
        for folder in sorted(self.workspace.runs_path.glob("*")):
            record = RunRecord(folder)
            report = record.report()
            if report is None or report.pack_digest not in made:
                continue
            if report.request_digest == wanted:
                record.drop_checkpoint()  # a cut right after the swap left it
                assert self.parent is not None  # its digest is among those
                found = self.parent.manifest.confidence
                return replace(
                    report, repeated=True, pack_digest=self.parent.digest, calibration_error=_calibration_error(found)
                )
        return None

    def _same_model(self) -> set[str]:
        """Digests of the pack in use and of those that it was only calibrated anew from."""
        found: set[str] = set()
        digest, manifest = (None, None) if self.parent is None else (self.parent.digest, self.parent.manifest)
        while digest is not None:
            found.add(digest)
            parents = manifest.parents if manifest else ()
            digest = next((one.digest for one in parents if one.method == CALIBRATE), None)
            folder = self.workspace.packs_path / str(digest)
            manifest = read_manifest(folder)[0] if folder.is_dir() else None
        return found

    def _course(self, old: Exemplars) -> Course:
        method = self.request.method
        if self.parent is not None:
            _check_same_model(method, self.parent)
        start = Start(
            method,
            parent=self.parent,
            exemplars=old.train,
            backbones=self.runtime.backbones,
            preprocess=self.runtime.preprocess,
            seed=self.request.adapt.seed,
            features=self._features(),
        )
        return course_for(start)

    def _train(self, course: Course, experience: Experience, record: RunRecord) -> tuple[int, int | None]:
        self.events.on_stage("prepare")
        events = self.events
        pace = Pace(lambda: events.on_stage("train"), events.on_progress, events.on_epoch, self._out_of_time)
        return course.train(experience, record, pace)

    def _out_of_time(self) -> bool:
        limit = self.request.adapt.max_minutes
        return limit is not None and time.monotonic() - self.started >= 60 * limit

    def _keep(
        self,
        report: AdaptReport,
        course: Course,
        train: Sequence[Sample],
        exemplars: Exemplars,
        record: RunRecord,
    ) -> AdaptReport:
        self.events.on_stage("write")
        if not report.accepted:
            record.finish(report)
            return report
        contents = self._contents(report, course, train, exemplars)
        digest = write_pack(self.workspace.packs_path, contents)
        self.store.write(digest, exemplars)
        report = replace(report, pack_digest=digest, calibration_error=_calibration_error(contents.confidence))
        record.finish(report)
        self.workspace.use_pack(digest)
        for folder in self.workspace.runs_path.glob("*"):  # this run's, and those begun from the pack before
            RunRecord(folder).drop_checkpoint()
        self.store.collect(path.name for path in self.workspace.list_packs())
        return report

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
            evaluation=report.evaluation(),
            calibrated=self._calibrated(course.pupil, exemplars),
        )

    def _calibrated(self, learner: Pupil, kept: Exemplars) -> Calibrated | None:
        """Confidence, fitted on all held-out samples that are kept; ``None`` where they are too few."""
        rate = self.request.adapt.false_alarm_rate
        try:
            return calibrate_on(learner, train=kept.train, holdout=kept.holdout, false_alarm_rate=rate)
        except CalibrationError as error:
            logger.info("the new pack's confidence was not calibrated: %s", error)
            return None


def _calibration_error(found: Confidence | None) -> dict[str, float] | None:
    return None if found is None else {"before": found.ece_before, "after": found.ece_after}


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
