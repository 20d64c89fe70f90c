"""``mmcl-edge bench``: the group; each of its commands is imported when it is invoked."""

from __future__ import annotations

import click

from mmcl_edge.commands.main import Entry, LazyGroup

COMMANDS = {
    "run": Entry("mmcl_edge.commands.bench_run", "Run learners on streams; what was run before is not run again."),
    "crossmodal": Entry(
        "mmcl_edge.commands.bench_crossmodal", "Compare learners of the shared space, and write the page of it."
    ),
    "report": Entry("mmcl_edge.commands.bench_report", "Make tables and one HTML page of what was run."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def command() -> None:
    """Compare learners on streams of experiences: accuracy, forgetting, costs, missing modalities.

    \b
    Examples:
      mmcl-edge bench run list
      mmcl-edge bench report bench/results
      mmcl-edge bench crossmodal --data ./datasets
    """  # noqa: D301
