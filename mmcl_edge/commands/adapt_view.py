"""What ``adapt`` shows while it works: progress on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

import click

from mmcl_edge.commands.adapt_text import seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from mmcl_edge.learners.protocol import Progress
    from mmcl_edge.runtime.adapt import AdaptEvents

STAGES = {
    "read": "reading the files",
    "decode": "decoding the files",
    "prepare": "preparing samples",
    "train": "training",
    "evaluate": "measuring what was known and what is new",
    "write": "writing the result",
}


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
        left = f"; {seconds(each_s * (self.epochs - epoch))} left" if epoch < self.epochs else ""
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
