"""The reliability diagram: accuracy against confidence, before and after calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.pictures import write_figure

Bins = Sequence[tuple[int, float, float]]
"""For each equally wide bin of confidence: samples, mean confidence, accuracy."""


def write_reliability(path: Path, panels: Mapping[str, Bins], *, title: str, note: str = "") -> None:
    """Draw one panel for each entry of ``panels``, its name above it.

    Args:
        path: where to write; ``.png`` or ``.svg``.
        panels: name to bins.
        title: above the picture.
        note: below it.

    Raises:
        InputError: another extension.
        MissingExtraError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    size = (1.0 + 4.0 * len(panels), 4.9)
    write_figure(path, lambda figure: _draw(figure, panels), size=size, title=title, note=note)


def _draw(figure: Any, panels: Mapping[str, Bins]) -> None:
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, bins) in zip(every, panels.items(), strict=True):
        _draw_panel(axes, name, bins)
    every[0].set_ylabel("accuracy")


def _draw_panel(axes: Any, name: str, bins: Bins) -> None:
    width, total = 1 / len(bins), sum(count for count, _, _ in bins)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for number, (count, confidence, accuracy) in enumerate(bins):
        if not count:
            continue
        left = number * width
        axes.bar(left, accuracy, width=0.9 * width, align="edge", color="tab:blue", alpha=0.25 + 0.75 * count / total)
        axes.plot([left, left + 0.9 * width], [confidence, confidence], color="black", linewidth=2)
        axes.text(left + 0.45 * width, 0.02, str(count), ha="center", fontsize=7, rotation=90)
    error = sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins) / max(1, total)
    axes.set_title(f"{name}: calibration error {error:.3f}", fontsize=11)
    axes.set_xlabel("confidence (black: its mean in the bin)")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
