"""``mmcl-edge fleet publish``: a pack becomes the release of a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import fleet_option, opened

if TYPE_CHECKING:
    from mmcl_edge.fleet.layout import Release


@click.command()
@click.argument("pack")
@click.option("--channel", default="stable", show_default=True, metavar="C", help="stable, beta, or a cohort's name.")
@click.option("--new-bundle", is_flag=True, help="Take a pack for another bundle than the present release's.")
@click.option("--allow-downgrade", is_flag=True, help="Take a pack of a lower version than the present release's.")
@fleet_option
@json_option
def command(pack: str, channel: str, new_bundle: bool, allow_downgrade: bool, fleet: str | None, as_json: bool) -> None:
    """Make PACK what the devices of a channel use.

    PACK is the beginning of a digest, 'current', 'previous', a folder or an archive. Beside the whole archive, deltas
    from the channel's last releases are made where they are smaller. Running it again changes nothing.

    \b
    Examples:
      mmcl-edge fleet publish current --channel beta
      mmcl-edge fleet publish ./merged/3fa94c... --channel kitchens
    """  # noqa: D301
    from mmcl_edge.commands.pack_place import opened as opened_pack

    with opened_pack(pack) as found, opened(fleet) as repository:
        release = repository.publish(found.path, channel, new_bundle=new_bundle, allow_downgrade=allow_downgrade)
    emit(as_result(release), as_json, as_text)


def as_result(release: Release) -> dict[str, Any]:
    """The JSON of one release."""
    return release.model_dump(mode="json", exclude={"schema_version"})


def as_text(result: Mapping[str, Any]) -> str:
    """One release in words."""
    current = result["current"]
    smallest = min(current["deltas"].values(), default=current["size_bytes"])
    return (
        f"{result['channel']} is at release {result['counter']}: {current['pack'][:16]} (version {current['version']}, "
        f"{current['size_bytes']:,} bytes; {len(current['deltas'])} deltas, the smallest transfer {smallest:,} bytes)"
    )
