"""``mmcl-edge calibrate``: the group; each of its commands is imported when it is invoked."""

from __future__ import annotations

import click

from mmcl_edge.commands.main import Entry, LazyGroup

COMMANDS = {
    "confidence": Entry(
        "mmcl_edge.commands.calibrate_confidence", "Make the pack in use say how sure it is, and what it does not know."
    ),
    "ranges": Entry("mmcl_edge.commands.calibrate_ranges", "Make an int8 bundle: smaller and faster."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def command() -> None:
    """Fit what is not learned: how sure answers are (pack), or the ranges of int8 (bundle).

    \b
    Examples:
      mmcl-edge calibrate confidence
      mmcl-edge calibrate ranges --data ./samples
    """  # noqa: D301
