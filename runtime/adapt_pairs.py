"""Adapt to a modality: learn pairs of it and a mediator, and keep the result only if earlier modalities stand.

Rules, in this order; whatever refuses, the pack in use stays in use and nothing of the workspace changes
(but its cache of features):

1. The workspace is locked; a second adapt is refused.
2. Modality and mediator are known names, the bundle has a backbone for both, and the space in use, where there is one,
   knows the mediator.
3. The pair folder is read and decoded; corrupt files are skipped and counted. Sounds are cut to their loudest window.
   A part of the pairs is held out; pairs that show the same stay together (``runtime.pair_division``).
4. The run's id follows from everything that decides its result, so the same command finds its own finished run.
5. The shared space of the pack in use (or a new one) learns the stage. It takes seconds once the features are there,
   and those are kept: a run that was killed starts over, and reads them.
6. Retrieval on held-out pairs of each old modality is measured before and after. If that of one fell by more than the
   tolerance, the run is recorded as refused and the old pack stays.
7. Otherwise the pack is written, with the classes of the one before as they are; then what is held out, then the run's
   record, and last the link ``current`` moves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmcl_edge.config import AdaptConfig, CometConfig, MethodConfig
from mmcl_edge.data.clips import clipped
from mmcl_edge.data.crossmodal import MEDIATOR, PairSet, check_modalities
from mmcl_edge.data.pair_folder import PairFolder, decode_pairs, read_pairs
from mmcl_edge.errors import InputError
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.reading import PairExperience
from mmcl_edge.learners.comet.storage import StoredSpace, space_of
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.persistence import alone, beside
from mmcl_edge.learners.protocol import Progress
from mmcl_edge.packs import PackContents, check_name, child_of, nfc
from mmcl_edge.runtime.adaptation import Adaptation, AdaptEvents
from mmcl_edge.runtime.holdout import FIGURE, retrieval_of
from mmcl_edge.runtime.pair_division import divide_pairs, judged_pairs, kept_pairs
from mmcl_edge.runtime.replay_store import Exemplars, HeldPair
from mmcl_edge.runtime.run_record import AdaptReport, RunRecord
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import TEXT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairRequest:
    """What modality to learn, and from which pairs.

    Attributes:
        modality: of the files.
        data: the pair folder.
        mediator: what the files are told by.
        name: of the stage; by default that of the folder.
        space: the method's configuration; by default that of the pack in use.
        epochs: passes over the pairs; ``None`` follows the configuration.
        adapt: treatment of the data, and the acceptance rule.
        provider: execution provider of the backbones.
        threads: of the backbones; ``None`` takes every core.
    """

    modality: str
    data: Path | str
    mediator: str = MEDIATOR
    name: str = ""
    space: CometConfig | None = None
    epochs: int | None = None
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    provider: str = "auto"
    threads: int | None = None


def adapt_pairs(workspace: Workspace, request: PairRequest, events: AdaptEvents | None = None) -> AdaptReport:
    """Learn a modality (the rules stand in the module docstring).

    Raises:
        LockedError: another process works in the workspace.
        InputError: a modality is unknown or cannot be told by this mediator, the bundle has no backbone for it, or the
            space of the pack in use has another configuration.
        TaskDataError: the pairs cannot be learned from.
        BundleError: the bundle is missing or broken.
        PackError: the pack in use is broken.
        StorageError: a file cannot be written.
    """
    check_modalities(request.modality, request.mediator)
    with workspace.lock():
        return _PairAdaptation(workspace, request, events or AdaptEvents()).run()


class _PairAdaptation(Adaptation):
    """One run of ``adapt_pairs``, its steps in the order of the rules."""

    def __init__(self, workspace: Workspace, request: PairRequest, events: AdaptEvents) -> None:
        super().__init__(workspace, request.adapt, request.provider, request.threads, events)
        self.request = request
        self.space = None if self.parent is None else space_of(self.parent)
        base = _base(request, self.space)
        self.config = base if request.epochs is None else base.model_copy(update={"epochs": request.epochs})
        self.name = _name(request)

    def run(self) -> AdaptReport:
        learner = self._learner()
        for modality in (self.request.modality, self.request.mediator):
            learner.read.check(modality)
        self._check_mediator()
        if self.space is None and self.request.mediator != TEXT:
            logger.warning(
                "a space that begins with %s cannot learn words later; begin with --mediator text if it shall",
                self.request.mediator,
            )
        self.events.on_stage("read")
        folder = read_pairs(Path(self.request.data), self.request.modality, self.request.mediator)
        asked = self._asked(folder)
        finished = self.finished(asked)
        if finished is not None:
            return finished
        run_id = self.run_id(asked)
        self.events.on_stage("decode")
        pairs, skipped = decode_pairs(
            folder, max_frames=self.how.max_frames, transform=lambda sample: clipped(sample, self.how.clip_s)
        )
        old = self.store.read(None if self.parent is None else self.parent.digest)
        train, held = divide_pairs(pairs, self.how, old.pairs)
        judged = judged_pairs(old.pairs, train, held)
        if not any(one.modality == self.request.modality for one in judged):
            logger.warning("%d pairs are too few to hold some out, so what was learned is not measured", len(pairs))
        before = retrieval_of(learner.embed, _known(judged, learner))
        self._warn_of_unchecked(before)
        self.events.on_stage("prepare")
        self._learn(learner, train)
        self.events.on_stage("evaluate")
        after = retrieval_of(learner.embed, _known(judged, learner))
        digests, counts = (run_id, folder.digest, asked), (len(train), len(held), len(skipped))
        report = self._report(digests, learner, (before, after), counts)
        record = RunRecord(self.workspace.run_folder(run_id))
        self.events.on_stage("write")
        if not report.accepted:
            return self.refuse(report, record)
        kept = Exemplars(old.train, old.holdout, kept_pairs(judged, self.request.modality, self.how))
        return self.swap(report, self._contents(learner, train, after), kept, record)

    def _check_mediator(self) -> None:
        known = () if self.space is None else self.space.facts.modalities
        if known and self.request.mediator not in known:
            raise InputError(
                f"Expected a mediator that the shared space in use knows ({', '.join(known)}), but "
                f"{self.request.mediator} is not one of them; teach through one of those (--mediator), or begin a new "
                f"space through {self.request.mediator} in a new workspace (MMCL_EDGE_HOME)."
            )

    def _warn_of_unchecked(self, before: Mapping[str, float]) -> None:
        taught = {} if self.space is None else self.space.facts.pairs
        unchecked = [name for name in taught if name not in {*before, self.request.modality}]
        if unchecked:
            logger.warning(
                "of %s too few pairs are held out here, so whether it is still found cannot be checked",
                " and ".join(unchecked),
            )

    def _learner(self) -> CometLearner:
        host = Host(
            self.runtime.backbones, MethodConfig(), self.runtime.preprocess, self.how.seed, features=self.features()
        )
        if self.space is None:
            return CometLearner(host, self.config)
        return replace(self.space, config=self.config).learner(host)

    def _asked(self, folder: PairFolder) -> str:
        pairs = [self.name, folder.modality, self.request.mediator, folder.digest]
        return self.request_digest({"pairs": pairs, "space": self.config.model_dump(mode="json")})

    def _learn(self, learner: CometLearner, train: PairSet) -> None:
        begun = False

        def follow(progress: Progress) -> None:
            nonlocal begun
            if not begun:
                self.events.on_stage("train")
                begun = True
            self.events.on_progress(progress)
            if progress.step == progress.steps:
                total = {name: value for name, value in progress.losses.items() if name == "total"}
                self.events.on_epoch(progress.epoch, total)

        learner.observe(PairExperience.of(train, name=self.name), follow)

    def _report(
        self,
        digests: tuple[str, str, str],
        learner: CometLearner,
        retrieval: tuple[Mapping[str, float], Mapping[str, float]],
        counts: tuple[int, int, int],
    ) -> AdaptReport:
        before, after = retrieval
        old = [name for name in before if name != self.request.modality]
        figures = [
            {"old": _mean([found[name] for name in old]), "new": found.get(self.request.modality)}
            for found in retrieval
        ]
        facts = {} if learner.last is None else asdict(learner.last)
        return AdaptReport(
            run_id=digests[0],
            task=self.name,
            task_digest=digests[1],
            request_digest=digests[2],
            classes=(),
            accepted=all(self.accepts(before[name], after[name]) for name in old),
            before=figures[0],
            after=figures[1],
            tolerance=self.how.tolerance,
            train_samples=counts[0],
            holdout_samples=counts[1],
            skipped=counts[2],
            exemplars=0,
            exemplar_bytes=0,
            epochs=self.config.epochs,
            resumed_from_epoch=None,
            parent_digest=None if self.parent is None else self.parent.digest,
            space={
                "modality": self.request.modality,
                "mediator": self.request.mediator,
                "modalities": list(learner.modalities),
                "retrieval": {"before": dict(before), "after": dict(after)},
                "codes": len(learner.space.codebook),
                **facts,
            },
        )

    def _contents(self, learner: CometLearner, train: PairSet, after: Mapping[str, float]) -> PackContents:
        stages = () if self.space is None else self.space.facts.stages
        pairs = {} if self.space is None else dict(self.space.facts.pairs)
        pairs[train.modality] = pairs.get(train.modality, 0) + len(train)
        found = StoredSpace.of(learner, stages=(*stages, self.name), pairs=pairs)
        space = replace(found, config=_base(self.request, self.space))
        figures: dict[str, Any] = {FIGURE + modality: round(value, 4) for modality, value in sorted(after.items())}
        if self.parent is None:
            return alone(space, bundle_digest=self.runtime.bundle.family, **figures)
        known = self.parent.manifest.confidence
        child = child_of(self.parent, self.parent.tensors(), method="adapt", confidence=known)
        return beside(child, space, **figures)


def _base(request: PairRequest, space: StoredSpace | None) -> CometConfig:
    """The configuration of the space: the one in use, or what was asked for.

    Raises:
        InputError: another one was asked for than the space in use has.
    """
    if space is None:
        return request.space or CometConfig()
    for name in CometConfig.model_fields if request.space else ():
        asked, has = getattr(request.space, name), getattr(space.config, name)
        if asked != has:
            raise InputError(
                f"The shared space in use has {name} = {has!r}, but {asked!r} was asked for; leave it out, or start a "
                "new workspace (MMCL_EDGE_HOME) to change it."
            )
    return space.config


def _name(request: PairRequest) -> str:
    """What the stage is called.

    Raises:
        InputError: it is no name.
    """
    name = nfc(request.name or Path(request.data).resolve().name)
    try:
        return check_name(name)
    except ValueError as error:
        raise InputError(f"Expected a name for the stage, but {name!r} is none: {error}; pass another.") from error


def _known(pairs: Sequence[HeldPair], learner: CometLearner) -> list[HeldPair]:
    """Pairs whose modality and mediator the learner has learned."""
    return [one for one in pairs if {one.modality, one.mediator} <= set(learner.modalities)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
