"""What ``adapt`` shows: progress on stderr while it works, and the result as text."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import table

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from mmcl_edge.learners.protocol import Progress
    from mmcl_edge.runtime.adapt import AdaptEvents

STAGES = {
    "read": "reading the task's files",
    "decode": "decoding sounds and pictures",
    "prepare": "preparing samples",
    "train": "training",
    "evaluate": "measuring old and new classes",
    "write": "writing the result",
}
MAX_LISTED = 5
"""Skipped files that are named; all are counted."""

POOR = 0.5
"""Accuracy on new classes below which the result comes with advice."""
_ADVICE = (
    "the new classes are recognised poorly: teach them with more samples or --epochs, "
    "or take this back with 'mmcl-edge pack rollback'"
)


class AdaptView:
    """Progress of one run: lines that stay and, on a terminal, a bar with the time left."""

    def __init__(self, task: str, *, quiet: bool) -> None:
        self.epochs_done = 0
        self._task = task
        self._quiet = quiet
        self._bar: Bar | None = None
        self._trained_s = 0.0
        self._from_epoch = 0
        self.epochs = 0

    def __enter__(self) -> AdaptView:
        if not self._quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._bar.add_task("opening the bundle", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def events(self) -> AdaptEvents:
        """The callbacks for the adapt engine."""
        from mmcl_edge.runtime.adapt import AdaptEvents

        return AdaptEvents(on_stage=self._on_stage, on_progress=self._on_progress, on_epoch=self._on_epoch)

    def _on_stage(self, stage: str) -> None:
        self._trained_s = time.monotonic()
        self._say(STAGES.get(stage, stage))
        if self._bar is not None:
            self._bar.remove_task(self._bar.task_ids[0])
            self._bar.add_task(STAGES.get(stage, stage), total=None)

    def _on_progress(self, progress: Progress) -> None:
        self.epochs = progress.epochs
        if progress.step == 1 and not self.epochs_done:
            self._from_epoch = progress.epoch - 1
        if self._bar is not None:
            done = (progress.epoch - 1) * progress.steps + progress.step
            text = f"epoch {progress.epoch}/{progress.epochs}"
            total = progress.epochs * progress.steps
            self._bar.update(self._bar.task_ids[0], description=text, completed=done, total=total)

    def _on_epoch(self, epoch: int, losses: Mapping[str, float]) -> None:
        self.epochs_done = epoch
        each_s = (time.monotonic() - self._trained_s) / (epoch - self._from_epoch)
        left = f"; {_seconds(each_s * (self.epochs - epoch))} left" if epoch < self.epochs else ""
        named = ": " + ", ".join(f"{name} {value:.3f}" for name, value in losses.items()) if losses else ""
        self._say(f"epoch {epoch}/{self.epochs}{named}{left}")

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(f"{self._task}: {text}", markup=False, highlight=False)
        elif not self._quiet:
            click.echo(f"{self._task}: {text}", err=True)


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


@dataclass
class Held:
    """Warnings of a run, kept back so that they do not tear the progress apart."""

    skipped: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@contextmanager
def held_warnings() -> Iterator[Held]:
    """Keep the library's warnings for the result instead of printing them as they come."""
    held, logger = Held(), logging.getLogger("mmcl_edge")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Keeper(held, handlers)], False
    try:
        yield held
    finally:
        logger.handlers, logger.propagate = handlers, propagate


class _Keeper(logging.Handler):
    """Keeps warnings, and passes everything else on."""

    def __init__(self, held: Held, handlers: list[logging.Handler]) -> None:
        super().__init__()
        self._held = held
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.WARNING:
            for handler in self._handlers:
                handler.handle(record)
            return
        text = record.getMessage()
        is_skip = text.startswith("Skipped: ")
        (self._held.skipped if is_skip else self._held.others).append(text.removeprefix("Skipped: "))


def human(result: Mapping[str, Any]) -> str:
    """The result of a run as text."""
    parts = [_headline(result), _accuracies(result), _facts(result)]
    return "\n\n".join(part for part in parts if part)


def _headline(result: Mapping[str, Any]) -> str:
    classes = f"{result['task']} ({', '.join(result['classes'])})"
    if result["repeated"] and result["accepted"]:
        return f"Done already: the pack in use learned {classes} by this very command, so nothing was changed."
    if result["accepted"]:
        return f"Learned {classes} in {_seconds(result['duration_s'])}."
    before, after = result["before"]["old"], result["after"]["old"]
    stays = result["pack_in_use"]
    again = " This very command was refused before, so it was not run again." if result["repeated"] else ""
    return (
        f"Refused: accuracy on old classes fell from {_percent(before)} to {_percent(after)}, and at most "
        f"{100 * result['tolerance']:g} points may be lost. The pack {stays[:16]} stays in use. Add samples to "
        f"{result['task']}, keep more exemplars (--memory-exemplars), or allow a larger loss (--tolerance).{again}"
    )


def _accuracies(result: Mapping[str, Any]) -> str:
    rows = [
        (f"{which} classes", _percent(result["before"][which]), _percent(result["after"][which]))
        for which in ("old", "new")
    ]
    return table(("held-out accuracy", "before", "after"), rows)


def _facts(result: Mapping[str, Any]) -> str:
    samples = f"{result['train_samples']} to learn from, {result['holdout_samples']} held out"
    resumed = result["resumed_from_epoch"]
    epochs = f"{result['epochs']}" + ("" if resumed is None else f", resumed after epoch {resumed}")
    pack = f"{result['pack_digest'][:16]}, now in use" if result["pack_digest"] else "none written"
    rows = [
        ("samples", samples),
        ("epochs", f"{epochs} ({result['placement'] or result['learner']})"),
        ("exemplars", f"{result['exemplars']} kept, {result['exemplar_bytes'] / 1e6:.1f} MB"),
        ("confidence", _confidence(result)),
        ("pack", pack),
        ("skipped", _skipped(result)),
        *(("warning", text) for text in result["warnings"]),
        *([("advice", _ADVICE)] if result["accepted"] and (result["after"]["new"] or 0.0) < POOR else []),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in rows)


def _confidence(result: Mapping[str, Any]) -> str:
    error = result["calibration_error"]
    if error is None:
        return "not calibrated" + (": too few held-out samples" if result["accepted"] else "")
    return f"calibrated, expected error {_percent(error['before'])} before and {_percent(error['after'])} after"


def _skipped(result: Mapping[str, Any]) -> str:
    if not result["skipped"]:
        return "no files"
    listed = result["skipped_files"][:MAX_LISTED]
    more = result["skipped"] - len(listed)
    lines = [f"{result['skipped']} that could not be decoded", *listed]
    if listed and more:
        lines.append(f"and {more} more")
    return f"\n{'':<11}".join(lines)


def _percent(share: float | None) -> str:
    return "none yet" if share is None else f"{100 * share:.1f} %"


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.0f} s" if duration_s < 100 else f"{duration_s / 60:.1f} min"
