"""Options that several commands share, and numbers that refuse NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A ``click.FloatRange`` that also refuses NaN and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def provider_option(function: Decorated) -> Decorated:
    """Add ``--provider``; the runtime refuses unknown names and providers that would not run."""
    return click.option(
        "--provider",
        default="auto",
        show_default=True,
        metavar="P",
        help="auto, cpu, cuda or tensorrt; a device and a memory cap in MB may follow: cuda:1,memory=4096.",
    )(function)


def threads_option(function: Decorated) -> Decorated:
    """Add ``--threads``."""
    return click.option(
        "--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the backbones.  [default: every core]"
    )(function)
