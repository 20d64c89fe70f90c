"""The picture of an accuracy matrix: a heat map with its numbers, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.metrics import Matrix
from mmcl_edge.errors import InputError, MissingExtraError
from mmcl_edge.fileio import write_atomic

FORMATS = (".png", ".svg")
_STYLE: Any = {
    "svg.hashsalt": "mmcl-edge",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
}


def write_accuracy_matrix(
    path: Path, matrix: Matrix, *, names: Sequence[str], title: str, note: str = "", chance: float | None = None
) -> None:
    """Draw ``matrix[t][i]``: accuracy on experience ``i`` (columns) after learning experience ``t`` (rows).

    Cells above the diagonal are greyed: those classes had not been taught yet. The same input gives the same bytes.

    Args:
        path: where to write; ``.png`` or ``.svg``.
        matrix: shares from 0 to 1, one row a step; rows may lack entries above the diagonal.
        names: of the experiences, in the order they were learned; lines are broken at line feeds.
        title: above the picture.
        note: below it, for figures such as the final accuracy; lines are broken at line feeds too.
        chance: accuracy of guessing after the last step, marked on the colour bar.

    Raises:
        InputError: another extension, or as many names as the matrix has no rows.
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    if len(names) != len(matrix):
        raise InputError(
            f"Expected one name for each of {len(matrix)} rows, but found {len(names)} names; change the names."
        )
    size = (2.6 + 1.55 * len(names), 2.4 + 0.95 * len(names))
    write_figure(path, lambda figure: _draw(figure, matrix, names, chance), size=size, title=title, note=note)


def check_picture(path: Path) -> None:
    """Refuse early what ``write_figure`` could not draw.

    Raises:
        InputError: another extension.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"Expected a path that ends in {' or '.join(FORMATS)}, but found {path.name!r}; change the path."
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "Drawing needs matplotlib, but it is missing; run: pip install 'mmcl-edge[quickstart]'"
        ) from error


def write_figure(
    path: Path, draw: Callable[[Any], None], *, size: tuple[float, float], title: str, note: str = ""
) -> None:
    """Write what ``draw`` makes of an empty figure; the same input gives the same bytes.

    Args:
        path: where to write; ``.png`` or ``.svg``.
        draw: fills a matplotlib figure.
        size: width and height in inches.
        title: above the picture.
        note: below it; lines are broken at line feeds.

    Raises:
        InputError: another extension.
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    check_picture(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.02, ha="left")
        figure.supxlabel(note, fontsize=10, color="0.25", x=0.02, ha="left")
        write_atomic(path, _encoded(figure, path.suffix[1:].lower()))


def _draw(figure: Any, matrix: Matrix, names: Sequence[str], chance: float | None) -> None:
    axes = figure.add_subplot()
    count = len(names)
    taught = [[matrix[t][i] if i <= t else float("nan") for i in range(count)] for t in range(count)]
    axes.set_facecolor("0.93")
    image = axes.imshow(taught, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    for step in range(count):
        for column in range(count):
            _write_cell(axes, step, column, taught[step][column])
    axes.set_xticks(range(count), names)
    axes.set_yticks(range(count), [f"{step + 1}. {name}" for step, name in enumerate(names)])
    axes.set_xlabel("accuracy on the test samples of", labelpad=8)
    axes.set_ylabel("after learning", labelpad=8)
    axes.set_xticks([edge - 0.5 for edge in range(1, count)], minor=True)
    axes.set_yticks([edge - 0.5 for edge in range(1, count)], minor=True)
    axes.grid(which="minor", color="white", linewidth=3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    _draw_bar(figure, axes, image, chance)


def _write_cell(axes: Any, step: int, column: int, value: float) -> None:
    if column > step:
        axes.text(column, step, "not taught\nyet", ha="center", va="center", color="0.5", fontsize=9)
        return
    color = "black" if value > 0.6 else "white"
    axes.text(column, step, f"{100 * value:.0f} %", ha="center", va="center", color=color, fontsize=15)


def _draw_bar(figure: Any, axes: Any, image: Any, chance: float | None) -> None:
    ticks = {share: f"{100 * share:.0f} %" for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    if chance is not None:
        ticks = {share: text for share, text in ticks.items() if abs(share - chance) > 0.05}
        ticks[chance] = f"{100 * chance:.0f} % (chance)"
    bar = figure.colorbar(image, ax=axes, ticks=list(ticks), pad=0.02, aspect=18)
    bar.ax.set_yticklabels(list(ticks.values()))
    bar.outline.set_visible(False)


def _encoded(figure: Any, kind: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()
