"""What was asked of the shared space, and whether the records reach it: each verdict is worked out."""

from __future__ import annotations

from collections.abc import Iterator

from mmcl_edge.benchmark.crossmodal.board import Board, high, low
from mmcl_edge.benchmark.crossmodal.document import Table, interval_text
from mmcl_edge.benchmark.crossmodal.records import Timings
from mmcl_edge.benchmark.crossmodal.scores import CHANCE, LUCK, SCORES
from mmcl_edge.benchmark.intervals import Interval

OURS, JOINT = "comet", "comet-joint"
SEQUENTIAL = ("comet-fine-tune", "comet-fine-tune-random")
MAIN = "stamps"
SHARE_OF_JOINT, MOST_FORGOTTEN, STAGE_S, SEARCH_MS = 0.9, 0.1, 300.0, 10.0
MET, MISSED, NOT_MEASURED, ONE_SEED = "met", "missed", "not measured", "one seed"
ACROSS = ("across_mean", "across_linear")

Row = tuple[str, str, str]


def targets(board: Board, timings: Timings | None) -> Table:
    """Every target with what was found."""
    rows = [*_retrieval(board), *_classes(board), *_kept(board), *_waiting(timings)]
    note = (
        "A learner is above another where their 95 % intervals over seeds do not overlap, and above chance where its "
        "interval is above what chance gives (for retrieval: above the upper end of the middle 95 % by permutation)."
    )
    return Table("", ("asked", "found", ""), tuple(rows), note)


def verdict(met: bool | None) -> str:
    """The word for it."""
    return NOT_MEASURED if met is None else MET if met else MISSED


def _retrieval(board: Board) -> Iterator[Row]:
    for score, what in (("unseen", "unseen pairs"), ("unseen_codes", "the same by codes")):
        ours = board.value(MAIN, OURS, score)
        luck = board.value(MAIN, OURS, LUCK[score])
        yield _above(f"{MAIN}, {what}: above chance", ours, luck, bound=True)
        for name in SEQUENTIAL:
            yield _above(f"{MAIN}, {what}: above {name}", ours, board.value(MAIN, name, score))


def _classes(board: Board) -> Iterator[Row]:
    for task in board.tasks:
        for score in ACROSS:
            what = f"{task}, {SCORES[score].title.lower()}"
            ours = board.value(task, OURS, score)
            yield _above(f"{what}: above chance", ours, board.value(task, OURS, CHANCE[score]), bound=True)
            for name in SEQUENTIAL:
                yield _above(f"{what}: above {name}", ours, board.value(task, name, score))


def _kept(board: Board) -> Iterator[Row]:
    for task in board.tasks:
        share = board.ratio(task, OURS, JOINT, "seen")
        yield (
            f"{task}, seen pairs: at least 90 % of {JOINT}'s score",
            f"{interval_text(share)} %" if share else "-",
            verdict(None if share is None else share.mean >= SHARE_OF_JOINT),
        )
    for task in board.tasks:
        gone = board.value(task, OURS, "forgetting")
        yield (
            f"{task}, the first pair after the last stage: at most 10 % of its score forgotten",
            f"{interval_text(gone)} %" if gone else "-",
            verdict(None if gone is None else gone.mean <= MOST_FORGOTTEN),
        )


def _waiting(timings: Timings | None) -> Iterator[Row]:
    for stage in timings.cold if timings else ():
        asked = f"a stage of {stage.pairs} pairs ({stage.modality}) from files, features included: at most 5 minutes"
        yield asked, f"{stage.seconds:.0f} s", verdict(stage.seconds <= STAGE_S)
    if timings is None:
        yield "a stage on 500 pairs from files: at most 5 minutes", "-", NOT_MEASURED
        yield "a query among 10,000 items: at most 10 ms", "-", NOT_MEASURED
        return
    found = f"{timings.search_ms:.2f} ms (95th percentile {timings.search_p95_ms:.2f} ms)"
    yield f"a query among {timings.search_items:,} items: at most 10 ms", found, verdict(timings.search_ms <= SEARCH_MS)


def separated(ours: Interval, theirs: Interval) -> bool:
    """Whether the interval of ``ours`` lies above that of ``theirs``."""
    return low(ours) > high(theirs)


def _above(asked: str, ours: Interval | None, theirs: Interval | None, *, bound: bool = False) -> Row:
    if ours is None or theirs is None:
        return asked, "-", NOT_MEASURED
    found = f"{interval_text(ours)} against {interval_text(Interval(theirs.mean, None, 1) if bound else theirs)}"
    if ours.half_width is None:
        return asked, found, ONE_SEED
    return asked, found, verdict(low(ours) > theirs.mean if bound else separated(ours, theirs))
