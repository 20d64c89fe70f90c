"""How a round's packs become one: ``fleet.merge``, with the weights of the round.

Rules, in this order:

1. Several packs are merged; one is taken as it is. Of sums, the merge names those that are unlike the others.
2. Sums are put on top of those of the fleet's pack (``fleet.carry``), which never lose a contribution so; classes
   on top of a fleet's pack that has none yet. Its shared space stays as it is.
3. What came out is evaluated if the caller can, and refused if the fleet's pack's classes lose more than the tolerance.
4. It takes its place in the folder of packs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from mmcl_edge.errors import InputError, MergeError, RejectedError
from mmcl_edge.fileio import STAGING_PREFIX, fsync_folder, storage_errors
from mmcl_edge.fleet.merge import Evaluate, MergeOptions, MergeReport, merge_packs
from mmcl_edge.fleet.merge.judging import judge, measure
from mmcl_edge.fleet.rounds.server import Outcome
from mmcl_edge.packs import read_pack, write_pack


@dataclass(frozen=True)
class PackMerge:
    """Merges the packs of a round.

    Attributes:
        method: of ``merge_packs``; the mean is federated averaging.
        evaluate: right answers of a pack, by class; ``None`` measures nothing and refuses nothing.
        tolerance: accuracy that a pack's classes may lose.
        executor: where packs are read; ``None`` is here.
    """

    method: str = "mean"
    evaluate: Evaluate | None = None
    tolerance: float = 0.02
    executor: Executor | None = None

    def __call__(
        self, packs: Sequence[Path], weights: Sequence[float], out: Path, *, before: Path | None = None
    ) -> Outcome:
        """See ``server.Merge``; the rules stand in the module docstring."""
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            place = tempfile.TemporaryDirectory(dir=out, prefix=STAGING_PREFIX)
        with place as name:
            made, scratch = packs[0], Path(name)
            outliers: Mapping[str, str] = {}
            sums = read_pack(packs[0]).config.learner == "analytic"
            if len(packs) > 1:
                report = self._merged(packs, weights, scratch, outliers=sums)
                made, outliers = scratch / report.digest, _outliers(report)
            if before is not None and sums:
                made = _on_top(before, made, scratch)
            if self.evaluate is not None and made != before and (before is not None or len(packs) == 1):
                self._check(self.evaluate, made, before)
            with storage_errors(out):
                if made.parent == scratch and not (out / made.name).exists():
                    os.replace(made, out / made.name)
                    fsync_folder(out)
        return Outcome(made.name, outliers)

    def _merged(self, packs: Sequence[Path], weights: Sequence[float], out: Path, *, outliers: bool) -> MergeReport:
        return merge_packs(
            packs,
            out,
            method=self.method,
            weights=weights,
            evaluate=self.evaluate,
            tolerance=self.tolerance,
            options=MergeOptions(outliers=outliers),
            executor=self.executor,
        )

    def _check(self, evaluate: Evaluate, made: Path, before: Path | None) -> None:
        """Rule 3; a first pack has nothing to be worse than, but must answer."""
        if before is None or read_pack(before).config.learner == "none":
            measure(evaluate, made, made.name, read_pack(made).manifest.label_names)
            return
        old = measure(evaluate, before, before.name, read_pack(before).manifest.label_names)
        loss = judge([old], evaluate(made)).largest_loss
        if loss > self.tolerance:
            raise RejectedError(
                f"The new pack would cost the classes of the fleet's pack {100 * loss:.1f} % of accuracy, above the "
                f"tolerance of {100 * self.tolerance:.1f} %; the fleet's pack stays."
            )


def _on_top(before: Path, made: Path, out: Path) -> Path:
    """Rule 2: folder of the pack that holds the sums of both; ``before`` where ``made`` brings nothing new."""
    from mmcl_edge.fleet.carry import carried

    fleet, new = read_pack(before), read_pack(made)
    try:
        contents = carried(fleet, new)
    except InputError as error:
        raise MergeError(str(error)) from error
    if contents is None:
        return before
    if made.parent == out:  # it is nobody's: what it was made from is named instead
        named = {one.digest: one for one in (*new.manifest.parents, *contents.parents) if one.digest != made.name}
        contents = replace(contents, parents=tuple(named.values()))
    return out / write_pack(out, contents)


def _outliers(report: MergeReport) -> Mapping[str, str]:
    found = {}
    for one in report.outliers or ():
        pairs = "; ".join(f"what it has as {name!r} lies where others have {other!r}" for name, other in one.exchanged)
        found[one.digest] = pairs or f"it lies far from the others ({', '.join(far.part for far in one.far)})"
    return found
