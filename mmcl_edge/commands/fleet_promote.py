"""``mmcl-edge fleet promote``: what one channel has tried becomes the release of another."""

from __future__ import annotations

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import fleet_option, opened
from mmcl_edge.commands.fleet_publish import as_result, as_text


@click.command()
@click.option(
    "--from", "source", default="beta", show_default=True, metavar="C", help="Channel whose release is taken."
)
@click.option("--to", "target", default="stable", show_default=True, metavar="C", help="Channel that gets it.")
@click.option("--new-bundle", is_flag=True, help="Take a pack for another bundle than the present release's.")
@click.option("--allow-downgrade", is_flag=True, help="Take a pack of a lower version than the present release's.")
@fleet_option
@json_option
def command(
    source: str, target: str, new_bundle: bool, allow_downgrade: bool, fleet: str | None, as_json: bool
) -> None:
    """Make the release of one channel (beta) that of another (stable).

    \b
    Examples:
      mmcl-edge fleet promote
      mmcl-edge fleet promote --from kitchens --to beta --json
    """  # noqa: D301
    with opened(fleet) as repository:
        release = repository.promote(source, target, new_bundle=new_bundle, allow_downgrade=allow_downgrade)
    emit(as_result(release), as_json, as_text)
