"""Results as plain data: JSON, CSV files, Markdown, and cells that people read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcl_edge.benchmark.columns import COSTS, METRICS
from mmcl_edge.benchmark.intervals import Interval
from mmcl_edge.benchmark.records import RunRecord
from mmcl_edge.benchmark.summaries import Summary
from mmcl_edge.fileio import write_atomic

MATRIX_COLUMNS = (
    "suite", "stream", "learner", "seed", "condition", "step", "experience", "test_count", "accuracy",
)  # fmt: skip
MAIN_METRICS = ("final_accuracy", "average_accuracy", "forgetting", "backward_transfer")
"""Columns of a table that is to fit on a page."""
MAIN_COSTS = ("persistent_bytes", "train_s")
NONE = "-"
"""Stands where there is no value."""
_UNITS = ("B", "kB", "MB", "GB", "TB")


def summary_json(summaries: Iterable[Summary]) -> list[dict[str, Any]]:
    """Every summary as JSON data: shares from 0 to 1, intervals as ``mean``, ``half_width``, ``count``, or null."""
    return [asdict(summary) for summary in summaries]


def write_csv(folder: Path, records: Sequence[RunRecord], summaries: Sequence[Summary]) -> tuple[Path, Path]:
    """Write ``summary.csv`` and ``matrices.csv`` into ``folder``.

    Raises:
        StorageError: they cannot be written.
    """
    paths = folder / "summary.csv", folder / "matrices.csv"
    write_atomic(paths[0], summary_csv(summaries))
    write_atomic(paths[1], matrices_csv(records))
    return paths


def matrices_csv(records: Iterable[RunRecord]) -> bytes:
    """The accuracy matrices in long form: a line for each run, condition, step (from 1) and experience tested."""
    return _csv(MATRIX_COLUMNS, (line for record in records for line in _matrix_lines(record)))


def summary_csv(summaries: Sequence[Summary]) -> bytes:
    """One line a learner and stream; ``*_ci95`` is half the width of the 95 % interval, empty for a single seed."""
    conditions = sorted({name for summary in summaries for name in summary.conditions})
    pairs = [*METRICS, *(f"{kind}:{name}" for name in conditions for kind in ("accuracy", "loss"))]
    header = ["suite", "stream", "scenario", "learner", "seeds"]
    header += [column for name in pairs for column in (name, f"{name}_ci95")] + [*COSTS]
    return _csv(header, (_summary_line(summary, conditions) for summary in summaries))


def markdown_table(
    summaries: Sequence[Summary],
    *,
    metrics: Sequence[str] = MAIN_METRICS,
    costs: Sequence[str] = MAIN_COSTS,
    conditions: Sequence[str] = (),
) -> str:
    """The summaries of one stream as a Markdown table, in the order given.

    Args:
        summaries: rows.
        metrics: names in ``METRICS``, shown in per cent with the 95 % interval.
        costs: names in ``COSTS``.
        conditions: test conditions whose loss against clean is shown, in points.
    """
    header = ["Learner", "Seeds", *(METRICS[name].title for name in metrics)]
    header += [f"Loss: {name}" for name in conditions] + [COSTS[name] for name in costs]
    rows = [_markdown_row(summary, metrics, costs, conditions) for summary in summaries]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(map(_markdown_cell, row))} |\n" for row in (header, rule, *rows))


def percent(value: Interval | None) -> str:
    """``71.2 ± 1.3``, in per cent; without an interval ``71.2``."""
    if value is None:
        return NONE
    spread = "" if value.half_width is None else f" ± {100 * value.half_width:.1f}"
    return f"{_signless(100 * value.mean)}{spread}"


def cost_text(name: str, value: float) -> str:
    """A cost with its unit."""
    return _COST_TEXTS[name](value)


def size_text(size_bytes: float) -> str:
    """``2.1 MB``: three digits and a decimal unit."""
    for unit in _UNITS:
        if size_bytes < 999.5 or unit == _UNITS[-1]:
            break
        size_bytes /= 1000
    return f"{size_bytes:.3g} {unit}"


def _count_text(value: float) -> str:
    return f"{value:,.0f}"


def _seconds_text(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


_COST_TEXTS: Mapping[str, Callable[[float], str]] = {
    "trainable_parameters": _count_text,
    "persistent_bytes": size_text,
    "model_bytes": size_text,
    "peak_rss_bytes": size_text,
    "train_s": _seconds_text,
    "predict_ms": lambda value: f"{value:.3g} ms",
}


def _signless(value: float) -> str:
    """One digit after the point, and never a zero with a sign."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def _markdown_row(
    summary: Summary, metrics: Sequence[str], costs: Sequence[str], conditions: Sequence[str]
) -> list[str]:
    losses = [summary.conditions[name].loss if name in summary.conditions else None for name in conditions]
    values = [*(summary.metrics[name] for name in metrics), *losses]
    prices = [cost_text(name, summary.costs[name]) for name in costs]
    return [summary.learner, str(len(summary.seeds)), *map(percent, values), *prices]


def _markdown_cell(text: str) -> str:
    """Nothing a name holds may end the cell or become markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|`*_[]<>" else letter for letter in flat)


def _matrix_lines(record: RunRecord) -> Iterable[Sequence[Any]]:
    run = (record.suite, record.stream, record.learner, record.seed)
    for condition, rows in record.matrices.items():
        for step, row in enumerate(rows):
            for name, count, accuracy in zip(record.experiences, record.test_counts, row, strict=True):
                yield *run, condition, step + 1, name, count, accuracy


def _summary_line(summary: Summary, conditions: Sequence[str]) -> list[Any]:
    values = list(summary.metrics.values())
    for name in conditions:
        found = summary.conditions.get(name)
        values += [None, None] if found is None else [found.accuracy, found.loss]
    cells = [cell for value in values for cell in _interval_cells(value)]
    place = [summary.suite, summary.stream, summary.scenario, summary.learner, len(summary.seeds)]
    return [*place, *cells, *summary.costs.values()]


def _interval_cells(value: Interval | None) -> tuple[Any, Any]:
    if value is None:
        return "", ""
    return round(value.mean, 6), "" if value.half_width is None else round(value.half_width, 6)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue().encode("utf-8")
