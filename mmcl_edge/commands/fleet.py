"""``mmcl-edge fleet``: the group; each of its commands is imported when it is invoked."""

from __future__ import annotations

import click

from mmcl_edge.commands.main import Entry, LazyGroup

COMMANDS = {
    "init": Entry("mmcl_edge.commands.fleet_init", "Make a fleet in a folder or bucket, and its keys."),
    "status": Entry("mmcl_edge.commands.fleet_status", "Show channels, expiries, keys, devices and the inbox."),
    "publish": Entry("mmcl_edge.commands.fleet_publish", "Make a pack the release of a channel."),
    "promote": Entry("mmcl_edge.commands.fleet_promote", "Make the release of one channel that of another."),
    "revoke": Entry("mmcl_edge.commands.fleet_revoke", "Withdraw a pack, or collect nothing more from a device."),
    "devices": Entry("mmcl_edge.commands.fleet_devices", "Enrol, list and revoke devices."),
    "inbox": Entry("mmcl_edge.commands.fleet_inbox", "List and collect what devices uploaded."),
    "refresh": Entry("mmcl_edge.commands.fleet_refresh", "Sign anew what will expire; meant to run every day."),
    "keys": Entry("mmcl_edge.commands.fleet_keys", "Show, rotate and sign the fleet's keys."),
    "trust": Entry("mmcl_edge.commands.fleet_trust", "Get to know a fleet that was made on another machine."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def command() -> None:
    """Run a fleet: packs go out through signed channels, devices send back what they learned.

    The fleet is a folder or bucket. Keys lie in MMCL_EDGE_KEYS (default: your user settings). Where more than one fleet
    is known, say --fleet URL or set MMCL_EDGE_FLEET.

    \b
    Examples:
      mmcl-edge fleet init s3://our-fleet
      mmcl-edge fleet publish current --channel beta
      mmcl-edge fleet promote
    """  # noqa: D301
