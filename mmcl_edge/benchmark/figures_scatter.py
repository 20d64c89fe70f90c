"""The points of the report: cost against accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcl_edge.benchmark.figures import PAPER, svg
from mmcl_edge.benchmark.figures_lines import Pens, limits
from mmcl_edge.benchmark.figures_matrix import shortened
from mmcl_edge.benchmark.intervals import Interval


def cost_scatter(
    points: Mapping[str, tuple[float, Interval]],
    pens: Pens,
    *,
    name: str,
    title: str,
    label: str,
    text: Callable[[float], str],
) -> str:
    """Cost (log axis that begins at 0) against accuracy as SVG, a named point a learner.

    Args:
        points: learner to cost and accuracy.
        pens: of every learner in ``points``.
        name: of the picture in the page.
        title: its text for people who do not see it.
        label: of the axis of costs.
        text: a cost with its unit.
    """
    found = ", ".join(f"{learner} {text(cost)} for {100 * value.mean:.0f}" for learner, (cost, value) in points.items())
    return svg(
        lambda figure: _draw_points(figure, points, pens, label, text),
        name=name,
        size=(4.4, 3.1),
        title=title,
        description=f"Cost for accuracy in per cent: {found}.",
        hints={f"point-{pens[learner].number}": f"{learner}: {text(cost)}" for learner, (cost, _) in points.items()},
    )


def _draw_points(
    figure: Any,
    points: Mapping[str, tuple[float, Interval]],
    pens: Pens,
    label: str,
    text: Callable[[float], str],
) -> None:
    axes = figure.add_subplot()
    for learner, (cost, value) in points.items():
        pen, mean = pens[learner], 100 * value.mean
        if value.half_width is not None:
            axes.errorbar(cost, mean, yerr=100 * value.half_width, color=pen.color, alpha=0.6, capsize=2, elinewidth=1)
        (dot,) = axes.plot([cost], [mean], pen.marker, color=pen.color, markersize=8, markeredgecolor=PAPER)
        dot.set_gid(f"point-{pen.number}")
    _scale_costs(axes, [cost for cost, _ in points.values()], text)
    axes.set_ylim(*limits([value for _, value in points.values()]))
    axes.set(xlabel=label, ylabel="final accuracy, %")
    axes.grid(alpha=0.45)
    _name_points(axes, points)


def _scale_costs(axes: Any, costs: Sequence[float], text: Callable[[float], str]) -> None:
    """Round numbers; where something costs nothing, the part below the first of them is linear and begins at 0."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    paid = [cost for cost in costs if cost > 0] or [1.0]
    low, high = _decade(min(paid)), max(paid)
    ticks = _round_numbers(low, high)
    if min(costs) <= 0:
        axes.set_xscale("symlog", linthresh=low, linscale=0.6)
        axes.set_xlim(-0.12 * low, high * 4)
        ticks = [0.0, *ticks]
    else:
        axes.set_xscale("log")
        axes.set_xlim(min(paid) / 1.6, high * 4)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _round_numbers(low: float, high: float) -> list[float]:
    """From ``low``, a power of ten, to ``high``: powers of ten, and numbers between them where the way is short."""
    steps = (1, 2, 5) if high < 20 * low else (1, 3) if high < 200 * low else (1,)
    decades = [low * 10**power for power in range(16) if low * 10**power <= high]
    return [decade * step for decade in decades for step in steps]


def _decade(value: float) -> float:
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return power


def _name_points(axes: Any, points: Mapping[str, tuple[float, Interval]]) -> None:
    """Write each name beside its point, where no other name or point is; without room, the hint alone has it."""
    axes.figure.draw_without_rendering()  # so that the places below are those of the finished layout
    at = {learner: (cost, 100 * value.mean) for learner, (cost, value) in points.items()}
    scale = 72 / axes.figure.dpi
    places = {learner: axes.transData.transform(place) * scale for learner, place in at.items()}
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
    for learner, (x, y) in places.items():
        name = shortened(learner, most=16)
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + _width(name), y + dy + 9) for dx, dy in _offsets(_width(name))}
        free = [offset for offset, box in boxes.items() if not any(_overlaps(box, other) for other in taken)]
        for offset in free[:1]:
            taken.append(boxes[offset])
            axes.annotate(name, at[learner], offset, textcoords="offset points", fontsize=8.5)


def _width(name: str) -> float:
    """About how wide the name is, in points."""
    return 5.2 * len(name)


def _offsets(width: float) -> list[tuple[float, float]]:
    """Where a name may begin, seen from its point, in points."""
    right, left = 8.0, -8.0 - width
    return [(right, -4), (left, -4), (right, 6), (right, -14), (left, 6), (left, -14), (right, 17), (right, -25)]


def _overlaps(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
