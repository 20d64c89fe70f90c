"""The pictures of a task: seen and unseen pairs by learner, and what becomes of the first pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.document import Picture
from mmcl_edge.benchmark.crossmodal.records import CrossmodalRecord
from mmcl_edge.benchmark.crossmodal.scores import CHANCE, SCORES, Measure, first_pair
from mmcl_edge.benchmark.crossmodal.tasks import TASKS
from mmcl_edge.benchmark.figures import SERIES, Pen, svg
from mmcl_edge.benchmark.intervals import Interval

SHOWN = ("seen", "unseen")
MARKS = ("o", "D")
FIRST = (
    "comet",
    "comet-random",
    "comet-fine-tune",
    "comet-fine-tune-random",
    "comet-moving-random",
    "comet-moving-no-replay-random",
)
"""Learners whose first pair is followed."""


def pictures_of(board: Board, task: str) -> Iterator[Picture]:
    """Those of one task."""
    yield _dots(board, task)
    curves = {name: _history(board, task, name) for name in FIRST if board.runs(task, name)}
    if curves:
        yield _curves(task, curves)


def _dots(board: Board, task: str) -> Picture:
    learners = board.learners(task)
    values = {name: {one: board.value(task, one, name) for one in learners} for name in SHOWN}
    chance = {name: board.value(task, learners[0], CHANCE[name]) for name in SHOWN}
    told = [f"{one} {_mean(values['seen'][one])} and {_mean(values['unseen'][one])}" for one in learners]
    drawn = svg(
        lambda figure: _draw_dots(figure, learners, values, chance),
        name=f"crossmodal-{task}-pairs",
        size=(5.2, 1.2 + 0.24 * len(learners)),
        title=f"Score of seen and unseen pairs on {task}, by learner",
        description=f"Seen and unseen, in per cent: {', '.join(told)}.",
    )
    note = "Points are means over seeds, bars 95 % intervals, broken lines chance."
    return Picture(f"crossmodal-{task}-pairs", f"Seen and unseen pairs on {task}", drawn, note)


def _draw_dots(
    figure: Any,
    learners: Sequence[str],
    values: Mapping[str, Mapping[str, Interval | None]],
    chance: Mapping[str, Interval | None],
) -> None:
    axes = figure.add_subplot()
    for number, name in enumerate(SHOWN):
        color = SERIES[number]
        for row, learner in enumerate(learners):
            value = values[name][learner]
            if value is not None:
                half, label = 100 * (value.half_width or 0.0), SCORES[name].title if row == 0 else None
                axes.errorbar(
                    100 * value.mean, row, xerr=half, fmt=MARKS[number], color=color, ecolor=color, capsize=2,
                    markersize=5, elinewidth=1.2, label=label,
                )  # fmt: skip
        at = chance[name]
        if at is not None:
            axes.axvline(100 * at.mean, color=color, linewidth=1, linestyle="dashed")
    axes.set_yticks(range(len(learners)), list(learners))
    axes.set_ylim(len(learners) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean of R@1, R@5 and R@10 both ways, %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.6)
    figure.legend(loc="outside lower center", ncols=len(SHOWN), frameon=False, fontsize=8)


def _history(board: Board, task: str, learner: str) -> list[Interval | None]:
    return [board.value(task, learner, _first_after(step)) for step in range(len(TASKS[task].domains))]


def _first_after(step: int) -> Measure:
    def measure(record: CrossmodalRecord) -> float | None:
        history = first_pair(record)
        return history[step] if len(history) == len(record.order) else None

    return measure


def _curves(task: str, curves: Mapping[str, Sequence[Interval | None]]) -> Picture:
    told = ", ".join(f"{name} {' then '.join(map(_mean, values))}" for name, values in curves.items())
    drawn = svg(
        lambda figure: _draw_curves(figure, curves),
        name=f"crossmodal-{task}-first",
        size=(4.8, 3.6),
        title=f"Score of the pair that was taught first on {task}, after each stage",
        description=f"In per cent: {told}.",
    )
    note = "Mean over the orders, each of which begins with another pair; bars are 95 % intervals over seeds."
    return Picture(f"crossmodal-{task}-first", f"The first pair on {task}", drawn, note)


def _draw_curves(figure: Any, curves: Mapping[str, Sequence[Interval | None]]) -> None:
    axes, steps = figure.add_subplot(), 0
    for number, (name, values) in enumerate(curves.items()):
        pen, known = Pen(number), [value for value in values if value is not None]
        steps = max(steps, len(known))
        axes.errorbar(
            [1 + row + 0.04 * (number - len(curves) / 2) for row in range(len(known))],
            [100 * value.mean for value in known],
            yerr=[100 * (value.half_width or 0.0) for value in known],
            color=pen.color, linestyle=pen.dash, marker=pen.marker, markersize=4.5, capsize=2, label=name,
        )  # fmt: skip
    axes.set_xticks(range(1, steps + 1))
    axes.set(xlabel="stages learned", ylabel="score of the first pair, %")
    axes.grid(axis="y", alpha=0.6)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _mean(value: Interval | None) -> str:
    return "-" if value is None else f"{100 * value.mean:.0f}"
