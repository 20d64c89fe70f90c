"""``mmcl-edge mark-good``: confirm the pack on trial."""

from __future__ import annotations

import click

from mmcl_edge.commands.console import emit, json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Confirm that the pack which 'mmcl-edge sync --trial' put in use is good; without it the next sync goes back.

    An application may run this once it has seen the pack work.

    \b
    Examples:
      mmcl-edge mark-good
      mmcl-edge mark-good --json
    """  # noqa: D301
    from mmcl_edge.fleet.trials import mark_good
    from mmcl_edge.runtime.workspace import Workspace

    digest = mark_good(Workspace().open())
    emit({"pack": digest}, as_json, lambda result: f"{result['pack'][:16]} is no longer on trial: it stays in use.")
