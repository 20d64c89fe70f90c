"""``mmcl-edge fleet refresh``: what expires is signed anew in good time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import fleet_option, opened


@click.command()
@click.option("--all", "everything", is_flag=True, help="Renew every role that a key here may sign, due or not.")
@fleet_option
@json_option
def command(everything: bool, fleet: str | None, as_json: bool) -> None:
    """Sign the fleet's metadata anew before it expires. Put it into the daily jobs of one machine.

    The timestamp is signed each time, the rest when half its life is over. The online key is enough for most days; what
    waits for a release or root key is named, so run it by hand where those are.

    \b
    Examples:
      mmcl-edge fleet refresh
      mmcl-edge fleet refresh --all --json
    """  # noqa: D301
    from mmcl_edge.fleet.upkeep import refresh

    with opened(fleet) as repository:
        done = refresh(repository, everything=everything)
    emit({"renewed": ["timestamp", *done.renewed], "waiting": list(done.waiting)}, as_json, _text)


def _text(result: Mapping[str, Any]) -> str:
    text = f"Signed anew: {_listed(result['renewed'])}."
    if result["waiting"]:
        text += f"\nWaiting for keys that are not here: {_listed(result['waiting'])}; run this where they are."
    return text


def _listed(roles: list[str]) -> str:
    bins = [role for role in roles if role.startswith("bins-")]
    return ", ".join([*(role for role in roles if role not in bins), *([f"{len(bins)} bins"] if bins else [])])
