"""What was asked of the shared space, and whether the records reach it: each verdict is worked out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmcl_edge.benchmark.crossmodal.board import Board, high, low
from mmcl_edge.benchmark.crossmodal.document import Table, interval_text
from mmcl_edge.benchmark.crossmodal.records import Timings
from mmcl_edge.benchmark.crossmodal.scores import CHANCE, LUCK
from mmcl_edge.benchmark.intervals import Interval
from mmcl_edge.benchmark.tables import NONE

OURS, JOINT = "comet", "comet-joint"
SEQUENTIAL = ("comet-fine-tune", "comet-fine-tune-random")
SHARE_OF_JOINT, MOST_FORGOTTEN, STAGE_S, SEARCH_MS = 0.9, 0.1, 300.0, 10.0
MET, MISSED, NOT_MEASURED, ONE_SEED = "met", "missed", "not measured", "one seed"
RETRIEVED = {"unseen": "unseen pairs", "unseen_codes": "unseen pairs by codes"}
TOLD = {"across_mean": "classes across", "across_linear": "classes across (linear)"}
NOTE = (
    "A learner is above another where their 95 % intervals over seeds do not overlap, and above chance where its "
    "interval is above what chance gives (for retrieval: the upper end of the middle 95 % by permutation)."
)

NOTE_KEPT = "Judged by the means over seeds, whatever their intervals. A query is timed with its vector at hand."


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that was asked.

    Attributes:
        asked: in words; of a comparison, without its rival.
        ours: what was found, in words.
        word: the verdict.
        rival: what ours should be above; empty where it is not compared.
        theirs: what the rival has.
    """

    asked: str
    ours: str
    word: str
    rival: str = ""
    theirs: str = ""

    @property
    def row(self) -> tuple[str, str, str]:
        """What was asked, what was found, and the verdict."""
        if not self.rival:
            return self.asked, self.ours, self.word
        found = self.ours if NONE in (self.ours, self.theirs) else f"{self.ours} against {self.theirs}"
        return f"{self.asked}: above {self.rival}", found, self.word


def targets(board: Board, timings: Timings | None) -> tuple[Target, ...]:
    """Every target, judged."""
    return (*_compared(board), *_kept(board), *_waiting(timings))


def target_tables(found: Sequence[Target]) -> tuple[Table, Table]:
    """Comparisons, a line a figure with a column a rival; and all others."""
    rivals = tuple(dict.fromkeys(one.rival for one in found if one.rival))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        if one.rival:
            lines.setdefault((one.asked, one.ours), {})[one.rival] = f"{one.theirs}: {one.word}"
    rows = tuple((*line, *(cells.get(rival, "-") for rival in rivals)) for line, cells in lines.items())
    others = tuple(one.row for one in found if not one.rival)
    return (
        Table(f"{OURS} above chance and above sequential fine-tuning", ("asked", OURS, *rivals), rows, NOTE),
        Table("Kept, and waited for", ("asked", "found", ""), others, NOTE_KEPT),
    )


def verdict(met: bool | None) -> str:
    """The word for it."""
    return NOT_MEASURED if met is None else MET if met else MISSED


def separated(ours: Interval, theirs: Interval) -> bool:
    """Whether the interval of ``ours`` lies above that of ``theirs``."""
    return low(ours) > high(theirs)


def _compared(board: Board) -> Iterator[Target]:
    for task in board.tasks:
        for score, what in (RETRIEVED | TOLD).items():
            ours = board.value(task, OURS, score)
            guessed = board.value(task, OURS, LUCK[score] if score in LUCK else CHANCE[score])
            limit = None if guessed is None else Interval(guessed.mean, None, guessed.count)
            name, found = f"{task}, {what}", interval_text(ours)
            yield Target(name, found, _above(ours, limit), "chance", interval_text(limit))
            for rival in SEQUENTIAL:
                theirs = board.value(task, rival, score)
                alone = ours is not None and theirs is not None and theirs.half_width is None
                yield Target(name, found, ONE_SEED if alone else _above(ours, theirs), rival, interval_text(theirs))


def _above(ours: Interval | None, theirs: Interval | None) -> str:
    if ours is None or theirs is None:
        return NOT_MEASURED
    return ONE_SEED if ours.half_width is None else verdict(separated(ours, theirs))


def _kept(board: Board) -> Iterator[Target]:
    for task in board.tasks:
        share = board.ratio(task, OURS, JOINT, "seen")
        yield Target(
            f"{task}, seen pairs: at least 90 % of {JOINT}'s score",
            f"{interval_text(share)} %" if share else NONE,
            verdict(None if share is None else share.mean >= SHARE_OF_JOINT),
        )
    for task in board.tasks:
        gone = board.value(task, OURS, "forgetting")
        yield Target(
            f"{task}, the first pair after the last stage: at most 10 % of its score forgotten",
            f"{interval_text(gone)} %" if gone else NONE,
            verdict(None if gone is None else gone.mean <= MOST_FORGOTTEN),
        )


def _waiting(timings: Timings | None) -> Iterator[Target]:
    if timings is None:
        yield Target("a stage of 500 pairs from files: at most 5 minutes", NONE, NOT_MEASURED)
        yield Target("a query among 10,000 items: at most 10 ms", NONE, NOT_MEASURED)
        return
    for stage in timings.cold:
        asked = f"a stage of {stage.pairs} pairs ({stage.modality}) from files, features included: at most 5 minutes"
        yield Target(asked, f"{stage.seconds:.0f} s", verdict(stage.seconds <= STAGE_S))
    yield Target(
        f"a query among {timings.search_items:,} items: at most 10 ms",
        f"{timings.search_ms:.2f} ms (95th percentile {timings.search_p95_ms:.2f} ms)",
        verdict(timings.search_ms <= SEARCH_MS),
    )
