"""``mmcl-edge calibrate confidence``: make the pack in use say how sure it is, and what it does not know.

Rules, in this order; whatever refuses, the pack in use stays in use and nothing of the workspace changes:

1. The workspace is locked, its bundle and pack in use are opened.
2. The samples are those that adapt held out, or those of a labelled folder; samples of classes that the pack was
   never taught serve to measure only. Samples that are kept to train on again are set aside: the model has seen them.
3. Temperature, unknown score and conformal scores are fitted (``learners.confidence``), on ten samples or more.
4. A pack with the same model and the new figures is written, a child of the one in use; then the exemplars that
   belong to it; last, the link ``current`` moves. Where the figures are what they were, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmcl_edge.config import AdaptConfig
from mmcl_edge.data.clips import clipped
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.errors import CalibrationError, PackError
from mmcl_edge.learners.confidence import Answers, Calibrated, auroc, calibrate_on, reliability, unknown_score
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.persistence import familiarity_of, recalibrated
from mmcl_edge.packs import Pack, read_pack, write_pack
from mmcl_edge.runtime.course import Start, course_for
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import ReplayStore, content_digest
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Sample

Bins = tuple[tuple[int, float, float], ...]
"""For each bin of confidence: samples, mean confidence, accuracy."""


@dataclass(frozen=True)
class ConfidenceReport:
    """The outcome.

    Attributes:
        pack_digest: the pack in use now.
        parent_digest: the pack that was in use.
        changed: whether they differ.
        samples: held-out samples of known classes.
        set_aside: samples of the folder that the model was trained on, and so were left out.
        classes: how many classes they are of.
        temperature: that logits are divided by.
        ece_before: expected calibration error at temperature 1.
        ece_after: the same after calibration, cross-validated.
        unknown_kind: what the unknown score is made of.
        false_alarm_rate: asked for.
        false_alarms: share of the known samples that is called unknown.
        strangers: samples of classes never taught.
        detected: share of them that is called unknown; ``None`` without any.
        auroc: of known samples against strangers; ``None`` without any.
        bins: reliability before and after.
    """

    pack_digest: str
    parent_digest: str
    changed: bool
    samples: int
    set_aside: int
    classes: int
    temperature: float
    ece_before: float
    ece_after: float
    unknown_kind: str
    false_alarm_rate: float
    false_alarms: float
    strangers: int
    detected: float | None
    auroc: float | None
    bins: dict[str, Bins]


def calibrate_confidence(
    workspace: Workspace,
    *,
    data: Path | None = None,
    false_alarm_rate: float = AdaptConfig().false_alarm_rate,
    provider: str = "auto",
    threads: int | None = None,
) -> ConfidenceReport:
    """Calibrate the pack in use (the rules stand in the module docstring).

    Args:
        workspace: an opened one.
        data: a folder of labelled samples, laid out as a task; ``None`` takes what adapt held out.
        false_alarm_rate: share of known samples that may be called unknown, above 0 and below 1.
        provider: of the backbones.
        threads: of the backbones; ``None`` takes every core.

    Raises:
        LockedError: another process works in the workspace.
        TaskDataError: ``data`` cannot be read.
        CalibrationError: there are too few samples of known classes, or the pack in use knows no classes.
        PackError: no pack is in use, or it is broken.
        BundleError: the bundle is missing or broken.
        StorageError: a file cannot be written.
    """
    with workspace.lock():
        folder = workspace.current_pack()
        if folder is None:
            raise PackError(
                f"Expected a pack in use in {workspace.root}, but nothing has been learned yet; "
                "run 'mmcl-edge adapt --task NAME' first."
            )
        with Runtime.open(workspace.bundle_path, provider=provider, threads=threads) as runtime:
            pack = read_pack(folder, bundle_digest=runtime.bundle.family)
            if pack.config.learner == "none":
                raise CalibrationError(
                    "Expected a pack that knows classes, whose confidence can be calibrated, but the one in use holds "
                    "a shared space alone; teach it some first with 'mmcl-edge adapt --task NAME'."
                )
            return _Calibration(workspace, runtime, pack, data, false_alarm_rate).run()


class _Calibration:
    """One run, its steps in the order of the rules."""

    def __init__(
        self, workspace: Workspace, runtime: Runtime, pack: Pack, data: Path | None, false_alarm_rate: float
    ) -> None:
        self.workspace = workspace
        self.pack = pack
        self.data = data
        self.rate = false_alarm_rate
        self.store = ReplayStore(workspace.replay_path)
        self.exemplars = self.store.read(pack.digest)
        self.set_aside = 0
        start = Start(
            pack.config,
            parent=pack,
            exemplars=(),
            backbones=runtime.backbones,
            preprocess=runtime.preprocess,
            seed=0,
            features=FeatureCache(),
        )
        self.learner = course_for(start).pupil

    def run(self) -> ConfidenceReport:
        known, strangers = self._samples()
        fitted = self._fit(known)
        digest = self._keep(fitted)
        return self._report(fitted, digest, known, strangers)

    def _samples(self) -> tuple[list[Sample], list[Sample]]:
        """Those of the pack's classes, and the others."""
        labels = self.pack.manifest.label_names
        if self.data is None:
            samples = list(self.exemplars.holdout)
        else:
            task = read_task(self.data, known_classes=labels, min_samples=1)
            config = AdaptConfig()
            samples, _ = decode_task(
                task, max_frames=config.max_frames, transform=lambda sample: clipped(sample, config.clip_s)
            )
            samples = self._never_trained_on(samples)
        known = [sample for sample in samples if sample.label in labels]
        if samples and not known:
            some = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
            raise CalibrationError(
                f"Expected samples of classes that the pack knows ({some}), but all "
                f"{len(samples)} in {self.data} are of classes it was never taught; add samples of known classes."
            )
        return known, [sample for sample in samples if sample.label not in labels]

    def _never_trained_on(self, samples: Sequence[Sample]) -> list[Sample]:
        taught = {content_digest(sample) for sample in self.exemplars.train}
        kept = [sample for sample in samples if content_digest(sample) not in taught]
        self.set_aside = len(samples) - len(kept)
        if not kept:
            raise CalibrationError(
                f"Expected samples that were never taught, but the model was trained on all {len(samples)} in "
                f"{self.data}; add others, or leave out --data to take those that adapt held out."
            )
        return kept

    def _fit(self, known: Sequence[Sample]) -> Calibrated:
        return calibrate_on(
            self.learner,
            train=self.exemplars.train,
            holdout=known,
            false_alarm_rate=self.rate,
            familiarity=familiarity_of(self.pack),
        )

    def _keep(self, fitted: Calibrated) -> str:
        """Write the pack and put it in use, unless the one in use says the same; returns its digest."""
        contents = recalibrated(self.pack, fitted)
        before, now = self.pack.tensors(), contents.tensors
        same = before.keys() == now.keys() and all(torch.equal(before[name], now[name]) for name in now)
        if same and fitted.confidence == self.pack.manifest.confidence:
            return self.pack.digest
        digest = write_pack(self.workspace.packs_path, contents)
        self.store.write(digest, self.exemplars)
        self.workspace.use_pack(digest)
        return digest

    def _report(
        self, fitted: Calibrated, digest: str, known: Sequence[Sample], strangers: Sequence[Sample]
    ) -> ConfidenceReport:
        found, held = fitted.confidence, self.learner.answers(known)
        scores = _scores(held, fitted)
        strange = _scores(self.learner.answers(strangers), fitted) if strangers else None
        return ConfidenceReport(
            pack_digest=digest,
            parent_digest=self.pack.digest,
            changed=digest != self.pack.digest,
            samples=found.samples,
            set_aside=self.set_aside,
            classes=found.classes,
            temperature=found.temperature,
            ece_before=found.ece_before,
            ece_after=found.ece_after,
            unknown_kind=found.unknown.kind,
            false_alarm_rate=self.rate,
            false_alarms=_share_below(scores, found.unknown.threshold),
            strangers=len(strangers),
            detected=None if strange is None else _share_below(strange, found.unknown.threshold),
            auroc=None if strange is None else auroc(scores, strange),
            bins={
                "before": tuple(reliability(held.logits.softmax(dim=1), held.target)),
                "after": tuple(reliability((held.logits / found.temperature).softmax(dim=1), held.target)),
            },
        )


def _scores(answers: Answers, fitted: Calibrated) -> Tensor:
    """The unknown score of every sample."""
    meter = None if fitted.familiarity is None else fitted.familiarity.meter()
    return torch.from_numpy(unknown_score(answers.logits, answers.joint, fitted.confidence.unknown, meter))


def _share_below(scores: Tensor, threshold: float) -> float:
    return float((scores < threshold).double().mean())
