"""What every command shares: ``--json``, results on stdout, progress on stderr, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from mmcl_edge.commands.main import JSON_KEY

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def json_option(function: Decorated) -> Decorated:
    """Add ``--json``, passed as ``as_json: bool``; errors are JSON on stdout too when it is given."""
    option = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_remember, help="Print the result as JSON on stdout."
    )
    return option(function)


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON_KEY] = value
    return value


def emit(result: Mapping[str, Any], as_json: bool, human: Callable[[Mapping[str, Any]], str | None]) -> None:
    """Print ``result`` on stdout: as JSON, or as the text that ``human(result)`` returns."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) if as_json else human(result)
    if text:
        click.echo(text)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> str:
    """``rows`` as aligned text; cells are taken literally, never as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(*header, title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    for row in rows:
        view.add_row(*(Text(str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 200, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


class Reporter:
    """Takes progress as ``reporter(text, done, total)`` and shows it; ``done`` and ``total`` are optional counts."""

    def __init__(self, show: Callable[[str, float | None, float | None], None]) -> None:
        self._show = show

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Show what is being done, and how much of it."""
        self._show(text, done, total)


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Reporter]:
    """Progress on stderr: a live bar on a terminal, plain lines elsewhere, nothing if ``quiet``.

    Example:
        >>> with progress("Export", quiet=True) as report:
        ...     report("audio segment 1", 1, 14)
    """
    if quiet:
        yield Reporter(lambda text, done, total: None)
    elif sys.stderr.isatty():
        with _live(title) as report:
            yield report
    else:
        yield Reporter(lambda text, done, total: click.echo(_line(title, text, done, total), err=True))


def _line(title: str, text: str, done: float | None, total: float | None) -> str:
    count = "" if done is None else f" [{done:g}]" if total is None else f" [{done:g}/{total:g}]"
    return f"{title}{count} {text}"


@contextmanager
def _live(title: str) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape(title), total=None)

        def show(text: str, done: float | None, total: float | None) -> None:
            bar.update(task, description=f"{escape(title)}: {escape(text)}", completed=done, total=total)

        yield Reporter(show)
