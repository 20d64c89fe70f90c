"""Heat maps of the report: accuracy matrices, expert use, routing overlap, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mmcl_edge.benchmark.figures import FAINT, PAPER, svg
from mmcl_edge.benchmark.metrics import Matrix

MOST_NUMBERED = 12
"""Rows up to which cells show their number."""
MOST_NAMED = 45
"""Classes up to which a confusion matrix names them."""
MOST_OUTLINED = 60
"""Rows up to which cells are drawn one by one; larger matrices become one image."""
COLORS = "viridis"


def accuracy_heat_map(matrix: Matrix, *, name: str, title: str, taught_only: bool) -> str:
    """``matrix[t][i]`` as SVG: step ``t`` downwards, experience ``i`` rightwards, cells in per cent.

    Args:
        matrix: T x T shares.
        name: of the picture in the page.
        title: its text for people who do not see it.
        taught_only: leave cells above the diagonal empty (class-incremental streams).
    """
    shown = [
        [value if i <= t or not taught_only else None for i, value in enumerate(row)] for t, row in enumerate(matrix)
    ]
    last = ", ".join(f"{100 * value:.0f}" for value in matrix[-1])
    return svg(
        lambda figure: _draw_square(figure, shown, "tested on", "after learning"),
        name=name,
        size=_square(len(matrix)),
        title=title,
        description=f"Accuracy after the last experience on each experience, in per cent: {last}.",
    )


def overlap_heat_map(overlap: Matrix, *, name: str, title: str) -> str:
    """A routing overlap, T x T shares, as SVG."""
    return svg(
        lambda figure: _draw_square(figure, overlap, "experience", "experience"),
        name=name,
        size=_square(len(overlap)),
        title=title,
        description="How much the experiences share their experts, in per cent.",
    )


def expert_heat_map(use: Sequence[Matrix], *, name: str, title: str) -> str:
    """``use[i][b][e]`` as SVG: experience ``i`` downwards, blocks and their experts rightwards."""
    return svg(
        lambda figure: _draw_experts(figure, use),
        name=name,
        size=(4.6, 1.1 + 0.22 * len(use)),
        title=title,
        description="Share of the routing on each experience's test samples that goes to each expert of each block.",
    )


def confusion_heat_map(counts: Sequence[Sequence[int]], labels: Sequence[str], *, name: str, title: str) -> str:
    """``counts[i][j]``, samples of class ``i`` called ``j``, as SVG; each row is divided by its sum."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    side = 2.4 + 0.17 * min(len(labels), MOST_NAMED)
    return svg(
        lambda figure: _draw_confusion(figure, shares, labels),
        name=name,
        size=(side, side),
        title=title,
        description="Rows: the true class; columns: the answer; each row is divided by its number of samples.",
    )


def _square(count: int) -> tuple[float, float]:
    side = 1.1 + 0.3 * min(max(count, 4), MOST_NUMBERED)
    return side + 0.1, side


def _draw_square(figure: Any, rows: Sequence[Sequence[float | None]], across: str, down: str) -> None:
    axes, count = figure.add_subplot(), len(rows)
    _paint(axes, rows, line=1.5)
    if count <= MOST_NUMBERED:
        _write_numbers(axes, rows)
    step = 1 + count // 16
    axes.set_xticks([i + 0.5 for i in range(0, count, step)], [str(i + 1) for i in range(0, count, step)])
    axes.set_yticks([i + 0.5 for i in range(0, count, step)], [str(i + 1) for i in range(0, count, step)])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.set_aspect("equal")


def _paint(axes: Any, rows: Sequence[Sequence[float | None]], *, line: float, top: float = 1.0) -> None:
    """Cells from 0 to ``top``; those that are None are faint."""
    from matplotlib.colors import ListedColormap

    empty = [[0.0 if value is None else float("nan") for value in row] for row in rows]
    values = [[float("nan") if value is None else value for value in row] for row in rows]
    many = len(rows) > MOST_OUTLINED
    style: Any = {
        "edgecolors": PAPER,
        "linewidth": 0 if many else line,
        "rasterized": many,
        "vmin": 0,
        "clip_on": False,
    }
    if any(value is None for row in rows for value in row):
        axes.pcolormesh(empty, cmap=ListedColormap([FAINT]), vmax=1, alpha=0.5, **style)
    axes.pcolormesh(values, cmap=COLORS, vmax=top, **style)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write_numbers(axes: Any, rows: Sequence[Sequence[float | None]]) -> None:
    for t, row in enumerate(rows):
        for i, value in enumerate(row):
            if value is not None:
                color = "black" if value > 0.6 else "white"
                axes.text(i + 0.5, t + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=8)


def _draw_experts(figure: Any, use: Sequence[Matrix]) -> None:
    axes = figure.add_subplot()
    rows = [[share for block in blocks for share in block] for blocks in use]
    _paint(axes, rows, line=0.6, top=max(max(row) for row in rows) or 1.0)
    ends = list(accumulate(len(block) for block in use[0]))
    starts = [0, *ends[:-1]]
    for end in ends[:-1]:
        axes.axvline(end, color=PAPER, linewidth=5)
    axes.set_xticks(
        [(start + end) / 2 for start, end in zip(starts, ends, strict=True)],
        [f"{number + 1}" for number in range(len(ends))],
    )
    axes.set_yticks([i + 0.5 for i in range(len(use))], [str(i + 1) for i in range(len(use))])
    axes.set_xlabel("block, with its experts")
    axes.set_ylabel("experience")


def _draw_confusion(figure: Any, shares: Sequence[Sequence[float]], labels: Sequence[str]) -> None:
    axes, count = figure.add_subplot(), len(labels)
    _paint(axes, shares, line=0.3)
    places = [i + 0.5 for i in range(count)] if count <= MOST_NAMED else []
    short = [shortened(label) for label in labels] if places else []
    axes.set_xticks(places, short, rotation=90)
    axes.set_yticks(places, short)
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    axes.set_aspect("equal")


def shortened(name: str, *, most: int = 22) -> str:
    """``name`` on one line of at most ``most`` letters."""
    flat = " ".join(name.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
