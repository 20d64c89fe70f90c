"""``merge_packs``: what many devices learned, as one pack.

Rules, performed in this order; nothing is written before the last:

1. The method and its options are ones that exist.
2. All packs are verified; broken ones are refused, or left out and named. Each counts once.
3. They fit: one bundle, one configuration. A method on task vectors has a base.
4. Classes are reconciled by id, experts united; what comes from where is planned. No value was used so far.
5. The method runs, packs after packs, in little memory. Sums are added; shared spaces are merged beside the classes.
6. The result is written beside its place and read back by all rules of ``read_pack``.
7. With evaluation data, parents and result answer it. ``auto`` does 4 to 7 for several methods and takes the best.
8. A result that lost more than the tolerance on some parent's classes, or on one of its modalities' pairs, is refused.
9. The result appears in its place, whole.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mmcl_edge.errors import MergeError
from mmcl_edge.fileio import STAGING_PREFIX, storage_errors
from mmcl_edge.fleet.merge import outliers as watching
from mmcl_edge.fleet.merge.assembly import Facts, facts
from mmcl_edge.fleet.merge.judging import Evaluate, Judgement, Measured, judge, measure
from mmcl_edge.fleet.merge.methods import (
    AUTO,
    MOST_COMPARED,
    NEEDS_BASE,
    ROBUST,
    MergeOptions,
    check_method,
    grouping_of,
    prepare,
)
from mmcl_edge.fleet.merge.pair_judging import EvaluatePairs, PairJudgement, judge_pairs
from mmcl_edge.fleet.merge.parents import Parents, counted_from, parents_of
from mmcl_edge.fleet.merge.plan import Planner
from mmcl_edge.fleet.merge.products import Products
from mmcl_edge.fleet.merge.reading import Array, Source
from mmcl_edge.fleet.merge.report import MergeRejectedError, MergeReport, Share, Trial
from mmcl_edge.fleet.merge.sharing import Shared, has_space, merge_shared
from mmcl_edge.fleet.merge.sources import lead_of, with_classes
from mmcl_edge.fleet.merge.streaming import refuse_infinite, stream
from mmcl_edge.fleet.merge.sum_outliers import LEAST_HOLDERS
from mmcl_edge.fleet.merge.sums import has_sums, merge_sums
from mmcl_edge.fleet.merge.verdict import evaluation, refusal
from mmcl_edge.packs import write_pack

FEW = 64
"""Up to so many packs are compared with each other whatever the method."""
OnProgress = Callable[[str, float | None, float | None], None]
"""Hears what is being done, and how much of it, where that is known."""


def merge_packs(
    sources: Sequence[Path],
    out: Path,
    *,
    method: str = AUTO,
    weights: Sequence[float] | Literal["samples"] | None = None,
    base: Path | None = None,
    evaluate: Evaluate | None = None,
    evaluate_pairs: EvaluatePairs | None = None,
    tolerance: float = 0.02,
    options: MergeOptions | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> MergeReport:
    """Merge packs into ``out/<digest>``, by the rules above.

    Args:
        sources: folders of packs, archives, or folders full of either. Their order does not matter.
        out: folder of packs.
        method: ``auto`` or a key of ``METHODS``.
        weights: one a pack, or ``samples``; ``None`` counts all alike.
        base: the pack that all were adapted from; found among parents where ``options.find`` can.
        evaluate: folder of a pack to right answers by class; ``None`` measures nothing.
        evaluate_pairs: folder of a pack to mean reciprocal rank by modality; ``None`` measures nothing.
        tolerance: accuracy that a parent's classes may lose, and mean reciprocal rank that its modalities may.
        options: what the methods may be told.
        executor: where packs are read; ``None`` is a thread for each core.
        on_progress: hears of progress.

    Raises:
        MergeError: the packs cannot be merged as asked.
        PackError: one is broken.
        MergeRejectedError: the result is worse than the tolerance allows; nothing was written.
        StorageError: the result cannot be written.
    """
    options, started = options or MergeOptions(), time.perf_counter()
    check_method(method, options)
    tell = on_progress or (lambda text, done, total: None)
    out = Path(out)
    with _scratch(out) as folder:
        merge = _Merge(folder, out, evaluate, evaluate_pairs, tolerance, options, executor, tell)
        report = merge.run(sources, method, weights, base)
    return replace(report, duration_s=round(time.perf_counter() - started, 3))


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A temporary folder in ``out``; an ``out`` that was made for it goes with it, if nothing else came there."""
    existed = out.exists()
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out, prefix=STAGING_PREFIX)
    try:
        with scratch as folder:
            yield Path(folder)
    finally:
        if not existed:
            with suppress(OSError):
                out.rmdir()


@dataclass(frozen=True)
class _Candidate:
    """One method's result, written to the scratch folder."""

    method: str
    facts: Facts
    tensors: dict[str, Array]
    outliers: tuple[watching.Outlier, ...] | None
    judgement: Judgement | None
    shared: Shared | None = None


@dataclass
class _Merge:
    """One call of ``merge_packs``."""

    scratch: Path
    out: Path
    evaluate: Evaluate | None
    evaluate_pairs: EvaluatePairs | None
    tolerance: float
    options: MergeOptions
    executor: Executor | None
    tell: OnProgress

    def run(
        self,
        names: Sequence[Path],
        method: str,
        weights: Sequence[float] | Literal["samples"] | None,
        base: Path | None,
    ) -> MergeReport:
        parents = parents_of(
            names,
            method,
            weights,
            base,
            scratch=self.scratch,
            options=self.options,
            executor=self.executor,
            on_read=lambda done, total: self.tell("verifying packs", done, total),
        )
        measured = self._measure(parents)
        self.tell("merging shared spaces", None, None)
        way = "mean" if method == AUTO else method
        shared = merge_shared(parents.sources, parents.shares, parents.base, way)
        tried: tuple[Trial, ...]
        if method != AUTO:
            chosen, reason, tried = self._candidate(parents, method, measured, shared), "It was asked for.", ()
        else:
            chosen, reason, tried = self._best(parents, measured, shared)
        return self._finish(parents, chosen, reason, tried)

    def _measure(self, parents: Parents) -> list[Measured]:
        """Right answers of the parents of most weight, on their own classes."""
        if self.evaluate is None:
            return []
        if not with_classes(parents.sources):
            raise MergeError(
                "Expected packs with classes to evaluate on a task folder, but these hold shared spaces alone; pass "
                "--eval-pairs MODALITY=DIR instead."
            )
        order = np.argsort(-parents.shares, kind="stable")[: self.options.most_evaluated]
        found = []
        for number, index in enumerate(order):
            source = parents.sources[int(index)]
            self.tell("evaluating parents", number + 1, len(order))
            if source not in with_classes([source]):
                continue
            found.append(measure(self.evaluate, source.path, source.digest, source.labels))
        return found

    def _candidate(
        self, parents: Parents, method: str, measured: Sequence[Measured], shared: Shared | None
    ) -> _Candidate:
        sources, shares = parents.sources, parents.shares
        base = parents.base if method in NEEDS_BASE else None
        plan = Planner(sources, parents.labels, parents.union, base).plan(grouping_of(method))
        products = Products(plan, sources)
        watched, robust = self._watches(method, sources), method in ROBUST
        watch = watching.look(plan, products) if watched else None
        if watch is not None and shared is not None:
            place = {source.digest: number for number, source in enumerate(sources)}
            for part, digests, inner in shared.looks:
                watch.look(part, [place[digest] for digest in digests], inner)
                watch.point(part, [place[digest] for digest in digests], inner)
        fold, jobs = prepare(method, plan, sources, shares, base=base, options=self.options, products=products)
        tensors = stream(
            plan,
            fold,
            jobs,
            executor=self.executor,
            on_part=lambda done, total: self.tell(f"merging ({method})", done, total),
        )
        names, summed = parents.labels.names, any(has_sums(source) for source in sources)
        sums = merge_sums(sources, names, watch=watched, leave_out=robust) if summed else None
        tensors |= (sums.tensors if sums else {}) | (shared.tensors if shared else {})
        refuse_infinite(tensors)
        found = facts(
            sources,
            shares.tolist(),
            method=method,
            base=counted_from(parents, method),
            labels=parents.labels,
            union=parents.union,
            sums=sums,
            shared=shared,
        )
        far = None
        if watch is not None:
            rows, misplaced = tensors.get(watching.ROWS), sums.misplaced if sums else {}
            far = watching.outliers(watch, sources, parents.labels, rows, misplaced)
        return _Candidate(method, found, tensors, far, self._judge(found, tensors, measured), shared)

    def _watches(self, method: str, sources: Sequence[Source]) -> bool:
        wanted, count = self.options.outliers, len(sources)
        if grouping_of(method) == "tensor" or count > MOST_COMPARED:
            return False
        return (method in ROBUST or count <= FEW) if wanted is None else wanted

    def _judge(self, found: Facts, tensors: dict[str, Array], measured: Sequence[Measured]) -> Judgement | None:
        if self.evaluate is None:
            return None
        self.tell("evaluating the result", None, None)
        folder = self.scratch / "candidates"
        written = folder / write_pack(folder, found.contents(tensors, {}))
        return judge(measured, self.evaluate(written))

    def _best(
        self, parents: Parents, measured: Sequence[Measured], shared: Shared | None
    ) -> tuple[_Candidate, str, tuple[Trial, ...]]:
        """The most accurate of the methods that can be tried; the earlier one where they are equal."""
        names = _worth_trying(parents)
        if len(names) == 1 or (lead_of(parents.sources).method.learner == "analytic" and self.evaluate is None):
            what = "Shared spaces are merged in one way" if names == ["mean"] else "Sums add up exactly"
            return self._candidate(parents, names[0], measured, shared), f"{what}: there is nothing to choose.", ()
        if self.evaluate is None:
            name = "task-arithmetic" if parents.base else "mean"
            why = "the packs have a base" if parents.base else "the packs have no base that is here"
            return self._candidate(parents, name, (), shared), f"Nothing was measured; {why}.", ()
        best, tried = None, []
        for name in names:
            one = self._candidate(parents, name, measured, shared)
            assert one.judgement is not None
            tried.append(Trial(name, one.judgement.accuracy, one.judgement.largest_loss))
            if best is None or best.judgement is None or one.judgement.accuracy > best.judgement.accuracy:
                best = one
        assert best is not None
        figures = ", ".join(f"{one.method} {100 * one.accuracy:.1f} %" for one in tried)
        return best, f"It was the most accurate on the evaluation data: {figures}.", tuple(tried)

    def _finish(self, parents: Parents, chosen: _Candidate, reason: str, tried: tuple[Trial, ...]) -> MergeReport:
        judgement, pairs = chosen.judgement, self._judge_pairs(parents, chosen)
        losses = [one.largest_loss for one in (judgement, pairs) if one is not None]
        accepted = max(losses, default=0.0) <= self.tolerance
        contents = chosen.facts.contents(chosen.tensors, evaluation(chosen.method, judgement, pairs))
        self.tell("writing the result", None, None)
        digest = write_pack(self.out if accepted else self.scratch / "refused", contents)
        gathered, base = parents.gathered, counted_from(parents, chosen.method)
        report = MergeReport(
            digest=digest,
            path=self.out / digest if accepted else None,
            method=chosen.method,
            reason=reason,
            accepted=accepted,
            version=contents.version,
            labels=contents.labels,
            experts=len(contents.experts),
            parents=tuple(
                Share(source.digest, str(source.path), float(share))
                for source, share in zip(parents.sources, parents.shares, strict=True)
            ),
            base=None if base is None else base.digest,
            repeated=gathered.repeated,
            broken=gathered.broken,
            clashes=parents.labels.clashes,
            folded=tuple(parents.union.folded),
            impostors=tuple((parents.sources[number].digest, expert) for number, expert in parents.union.impostors),
            outliers=chosen.outliers,
            space=chosen.shared.figures if chosen.shared else None,
            judgement=judgement,
            pairs=pairs,
            tolerance=self.tolerance,
            tried=tried,
            notes=(*chosen.facts.notes, *_notes(parents, self)),
        )
        if not accepted:
            raise MergeRejectedError(refusal(judgement, pairs, self.tolerance), report)
        return report

    def _judge_pairs(self, parents: Parents, chosen: _Candidate) -> PairJudgement | None:
        """Retrieval of the parents of most weight that hold a space, and of the result."""
        if self.evaluate_pairs is None:
            return None
        if chosen.shared is None:
            raise MergeError("Expected packs with a shared space for pairs (--eval-pairs), but none of these has one.")
        holding = [n for n in np.argsort(-parents.shares, kind="stable").tolist() if has_space(parents.sources[n])]
        holding, found = holding[: self.options.most_evaluated], []
        for done, number in enumerate(holding, start=1):
            source = parents.sources[number]
            self.tell("evaluating parents on pairs", done, len(holding))
            found.append((source.digest, self.evaluate_pairs(source.path)))
        self.tell("evaluating the result on pairs", None, None)
        written = write_pack(self.scratch / "pairs", chosen.facts.contents(chosen.tensors, {}))
        after = self.evaluate_pairs(self.scratch / "pairs" / written)
        if not after:
            known = ", ".join(one.modality for one in chosen.shared.figures.modalities)
            raise MergeError(
                f"Expected pairs (--eval-pairs) of modalities that the packs know ({known}), but none of the pairs is "
                "of one; pass pairs of those."
            )
        return judge_pairs(found, after)


def _worth_trying(parents: Parents) -> list[str]:
    count = len(parents.sources)
    learner = lead_of(parents.sources).method.learner
    if learner == "none":
        return ["mean"]
    if learner == "analytic":
        return ["union", "median"] if LEAST_HOLDERS <= count <= MOST_COMPARED else ["union"]
    on_base = ["task-arithmetic", "ties"] if parents.base else []
    robust = ["median"] if 4 <= count <= MOST_COMPARED else []
    return ["mean", "union", *on_base, *robust]


def _notes(parents: Parents, merge: _Merge) -> list[str]:
    notes = ["Confidence is not calibrated: run 'mmcl-edge calibrate confidence' with the merged pack in use."]
    notes = notes if with_classes(parents.sources) else []
    if merge.evaluate is None and merge.evaluate_pairs is None:
        option = "--eval DATA" if with_classes(parents.sources) else "--eval-pairs MODALITY=DIR"
        notes.append(f"Nothing was measured: pass evaluation data ({option}) to have the result judged.")
    elif len(parents.sources) > merge.options.most_evaluated:
        notes.append(
            f"Of {len(parents.sources)} parents the {merge.options.most_evaluated} of most weight were judged."
        )
    if merge.evaluate and merge.evaluate_pairs is None and any(map(has_space, parents.sources)):
        notes.append("The shared space was not measured: pass --eval-pairs MODALITY=DIR to have it judged, too.")
    return notes
