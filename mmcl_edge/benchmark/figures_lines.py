"""Curves and bars of the report: accuracy by step, forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcl_edge.benchmark.figures import INK, Pen, svg
from mmcl_edge.benchmark.figures_matrix import shortened
from mmcl_edge.benchmark.intervals import Interval

Pens = Mapping[str, Pen]
"""Learner to how it is drawn."""
_LEGEND_COLUMNS = 4


def step_curves(
    curves: Mapping[str, Sequence[Interval]], pens: Pens, *, name: str, title: str, legend: bool = False
) -> str:
    """Accuracy after each step as SVG, a line a learner, its 95 % interval as a band.

    Args:
        curves: learner to its step accuracies, shares.
        pens: of every learner in ``curves``.
        name: of the picture in the page.
        title: its text for people who do not see it.
        legend: name the learners below, for a picture that stands alone; a page has a legend of its own.
    """
    rows = -(-len(curves) // _LEGEND_COLUMNS) if legend else 0
    last = ", ".join(f"{learner} {100 * values[-1].mean:.0f}" for learner, values in curves.items())
    return svg(
        lambda figure: _draw_curves(figure, curves, pens, legend),
        name=name,
        size=(4.4, 3.1 + 0.2 * rows),
        title=title,
        description=f"After the last experience, in per cent: {last}.",
        hints={f"line-{pens[learner].number}": learner for learner in curves},
    )


def interval_bars(values: Mapping[str, Interval], pens: Pens, *, name: str, title: str, label: str) -> str:
    """One bar a learner with its 95 % interval as SVG, in the order given, from the top; shares in points."""
    found = ", ".join(f"{learner} {100 * value.mean:.1f}" for learner, value in values.items())
    return svg(
        lambda figure: _draw_bars(figure, values, pens, label),
        name=name,
        size=(4.4, max(2.0, 0.9 + 0.26 * len(values))),
        title=title,
        description=f"In points: {found}.",
        hints={f"bar-{pens[learner].number}": learner for learner in values},
    )


def _draw_curves(figure: Any, curves: Mapping[str, Sequence[Interval]], pens: Pens, legend: bool) -> None:
    axes = figure.add_subplot()
    for learner, values in curves.items():
        pen, steps = pens[learner], range(1, len(values) + 1)
        means = [100 * value.mean for value in values]
        half = [100 * (value.half_width or 0.0) for value in values]
        low, high = ([m + sign * h for m, h in zip(means, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=pen.color, alpha=0.16, linewidth=0)
        (line,) = axes.plot(steps, means, color=pen.color, linestyle=pen.dash, marker=pen.marker, markersize=4.5)
        line.set_gid(f"line-{pen.number}")
        line.set_label(shortened(learner, most=16))
    count = len(next(iter(curves.values())))
    axes.set_xticks(range(1, count + 1, 1 + count // 16))
    axes.set_ylim(*limits([value for values in curves.values() for value in values]))
    axes.set(xlabel="experiences learned", ylabel="accuracy on all of them, %")
    if legend:
        figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.6)


def limits(values: Sequence[Interval]) -> tuple[float, float]:
    """Of an axis of accuracies, in per cent: with air, never beyond what can be."""
    low = min(100 * (value.mean - min(value.half_width or 0.0, 0.1)) for value in values)
    high = max(100 * (value.mean + min(value.half_width or 0.0, 0.1)) for value in values)
    return max(0.0, low - 4), min(101.0, high + 4)


def _draw_bars(figure: Any, values: Mapping[str, Interval], pens: Pens, label: str) -> None:
    axes = figure.add_subplot()
    for row, (learner, value) in enumerate(values.items()):
        pen, mean = pens[learner], 100 * value.mean
        (bar,) = axes.barh(row, mean, height=0.62, color=pen.color, alpha=0.85)
        bar.set_gid(f"bar-{pen.number}")
        if value.half_width is not None:
            axes.errorbar(mean, row, xerr=100 * value.half_width, color=INK, capsize=3, elinewidth=1.2)
    axes.set_yticks(range(len(values)), [shortened(learner) for learner in values])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.6)
