"""What the records say, in sentences that are worked out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmcl_edge.benchmark.crossmodal.board import Board, low
from mmcl_edge.benchmark.crossmodal.document import interval_text, listed
from mmcl_edge.benchmark.crossmodal.records import Timings
from mmcl_edge.benchmark.crossmodal.scores import SCORES
from mmcl_edge.benchmark.crossmodal.targets import JOINT, MET, MISSED, OURS, SEQUENTIAL, TOLD, targets


def findings(board: Board, timings: Timings | None) -> Iterator[str]:
    """What the records say, in sentences."""
    found = targets(board, timings)
    missed = Counter(f"above {one.rival}" if one.rival else one.asked for one in found if one.word == MISSED)
    told = [f"{count} {name}" for name, count in missed.most_common()]
    yield (
        f"{sum(one.word == MET for one in found)} of {len(found)} targets are met"
        + (f", {sum(missed.values())} missed: {listed(told)}." if told else ".")
    )
    for task in board.tasks:
        yield from _standing(board, task)


def _standing(board: Board, task: str) -> Iterator[str]:
    """Who is best on a task, and what ours is beside the closed form and the bounds."""
    for score in ("seen", "unseen"):
        ranked = [(value.mean, name) for name in board.learners(task) if (value := board.value(task, name, score))]
        mean, best = max(ranked)
        title = SCORES[score].title.lower()
        beside = [
            f"{interval_text(found)} against {other}"
            for other in (JOINT, "comet-ridge", *SEQUENTIAL)
            if (found := board.difference(task, OURS, other, score)) is not None
        ]
        ours = board.value(task, OURS, score)
        if ours is not None and beside:
            yield (
                f"{task}, {title}: {OURS} has {interval_text(ours)} (highest: {best}, {100 * mean:.1f}); "
                f"in points {listed(beside)}."
            )
    yield from _forgotten(board, task)
    yield from _classes(board, task)


def _forgotten(board: Board, task: str) -> Iterator[str]:
    """Who forgets the first pair, surely."""
    found = {name: value for name in board.learners(task) if (value := board.value(task, name, "forgetting"))}
    sure = [name for name, value in found.items() if value.half_width is not None and low(value) > 0]
    sure.sort(key=lambda name: -found[name].mean)
    told = [f"{name} ({interval_text(found[name])} %)" for name in sure]
    if any(value.half_width is not None for value in found.values()):
        yield (
            f"{task}, of the first pair's score forget: {listed(told)}." if told else f"{task}: nobody surely forgets."
        )


def _classes(board: Board, task: str) -> Iterator[str]:
    """How far the codes of one modality tell what is shown in another."""
    for score in TOLD:
        ours, closed = board.value(task, OURS, score), board.difference(task, OURS, "comet-ridge", score)
        if ours is not None and closed is not None:
            title = SCORES[score].title.lower()
            beside = f"in points {interval_text(closed)} against comet-ridge"
            yield f"{task}, {title}: {OURS} has {interval_text(ours)}, {beside}."
