"""What a merge says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmcl_edge.errors import RejectedError
from mmcl_edge.fleet.merge.experts import Folded
from mmcl_edge.fleet.merge.judging import Judgement
from mmcl_edge.fleet.merge.labels import Clash
from mmcl_edge.fleet.merge.outliers import Outlier
from mmcl_edge.fleet.merge.pair_judging import PairJudgement
from mmcl_edge.fleet.merge.sharing import SpaceFigures
from mmcl_edge.fleet.merge.sources import Broken


@dataclass(frozen=True, slots=True)
class Share:
    """One parent: its digest, where it was, and its share of the weight."""

    digest: str
    path: str
    weight: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One method that ``auto`` tried: its accuracy over all evaluation data, its largest loss for one parent."""

    method: str
    accuracy: float
    largest_loss: float


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What was merged, how, and how good it is.

    Attributes:
        digest: of the merged pack; of one that was refused, what it would have had.
        path: its folder; ``None`` where it was refused.
        method: what was used.
        reason: why that method.
        accepted: whether it was kept.
        version: of the merged pack.
        labels: its classes.
        experts: how many it has.
        parents: what it was made from.
        base: digest of the pack that task vectors, or what is new in shared spaces, were counted from.
        repeated: digests that were named more than once; each counted once.
        broken: packs that were left out.
        clashes: class names that differ in case alone, taken for one class.
        folded: experts that were dropped because another is alike.
        impostors: digest of a pack and the expert whose id it used for other weights; the genuine one was taken.
        outliers: packs that lie far from the others; ``None`` where nobody looked.
        space: what became of shared spaces; ``None`` where no pack holds one.
        judgement: figures on evaluation data; ``None`` without any.
        pairs: figures on evaluation pairs; ``None`` without any.
        tolerance: accuracy that a parent's classes may lose, and mean reciprocal rank that its modalities may.
        tried: what ``auto`` compared.
        notes: sentences on what else a reader should know.
        duration_s: how long it took.
    """

    digest: str
    path: Path | None
    method: str
    reason: str
    accepted: bool
    version: int
    labels: tuple[str, ...]
    experts: int
    parents: tuple[Share, ...]
    base: str | None
    repeated: tuple[str, ...]
    broken: tuple[Broken, ...]
    clashes: tuple[Clash, ...]
    folded: tuple[Folded, ...]
    impostors: tuple[tuple[str, str], ...]
    outliers: tuple[Outlier, ...] | None
    space: SpaceFigures | None
    judgement: Judgement | None
    pairs: PairJudgement | None
    tolerance: float
    tried: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = field(default=())
    duration_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        found = asdict(self)
        found["path"] = None if self.path is None else str(self.path)
        return found


class MergeRejectedError(RejectedError):
    """The merged pack lost more than the tolerance; nothing was written.

    Attributes:
        report: what was found.
    """

    def __init__(self, message: str, report: MergeReport) -> None:
        super().__init__(message)
        self.report = report
