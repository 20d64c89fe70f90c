"""``mmcl-edge fleet status``: how a fleet stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.fleet_place import fleet_option, key_table, opened
from mmcl_edge.commands.fleet_publish import as_result

if TYPE_CHECKING:
    from mmcl_edge.fleet.status import FleetStatus


@click.command()
@fleet_option
@json_option
def command(fleet: str | None, as_json: bool) -> None:
    """Show a fleet's channels, expiries, versions, keys, devices and inbox; everything read is verified.

    \b
    Examples:
      mmcl-edge fleet status
      mmcl-edge fleet status --fleet s3://our-fleet --json
    """  # noqa: D301
    from mmcl_edge.fleet.status import status

    with opened(fleet) as repository:
        found = status(repository)
    emit(_result(found), as_json, _text)


def _result(found: FleetStatus) -> dict[str, Any]:
    return {
        "url": found.url,
        "fingerprint": found.fingerprint,
        "versions": found.versions,
        "expires": {role: end.strftime("%Y-%m-%dT%H:%M:%SZ") for role, end in found.expires.items()},
        "expired": list(found.expired),
        "complete": found.complete,
        "keys": {
            name: {"keyids": list(group.keyids), "threshold": group.threshold} for name, group in found.keys.items()
        },
        "channels": [as_result(release) for release in found.releases],
        "archives": found.archives,
        "bins": found.bins,
        "require_signatures": found.require_signatures,
        "devices": list(found.devices),
        "revoked_devices": found.revoked,
        "inbox": None
        if found.inbox is None
        else {"uploads": found.inbox.uploads, "size_bytes": found.inbox.size_bytes},
    }


def _text(result: Mapping[str, Any]) -> str:
    expires, expired = result["expires"], set(result["expired"])
    versions = result["versions"]
    parts = [
        table(("fact", "value"), _facts(result)),
        table(
            ("channel", "release", "pack", "version", "bytes", "deltas", "withdrawn"),
            [_channel(release) for release in result["channels"]],
        )
        if result["channels"]
        else "No channels yet; publish a pack with 'mmcl-edge fleet publish PACK --channel beta'.",
        table(
            ("role", "version", "expires", ""),
            [
                (role, versions.get(role, ""), end, "EXPIRED" if role in expired else "")
                for role, end in expires.items()
            ],
        ),
        table(("keys", "threshold", "key ids"), key_table(result["keys"])),
    ]
    return "\n\n".join(parts)


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    inbox = result["inbox"]
    return [
        ("fleet", result["url"]),
        ("fingerprint", result["fingerprint"]),
        ("archives", f"{result['archives']} in {result['bins']} bins"),
        ("devices", f"{len(result['devices'])} enrolled, {result['revoked_devices']} revoked"),
        (
            "inbox",
            "cannot be listed here" if inbox is None else f"{inbox['uploads']} uploads, {inbox['size_bytes']:,} bytes",
        ),
        ("signed packs", "required" if result["require_signatures"] else "not required"),
        *([] if result["complete"] else [("unfinished", "an admin was cut short; run 'mmcl-edge fleet refresh'")]),
    ]


def _channel(release: Mapping[str, Any]) -> tuple[Any, ...]:
    current = release["current"]
    return (
        release["channel"],
        release["counter"],
        current["pack"][:16],
        current["version"],
        f"{current['size_bytes']:,}",
        len(current["deltas"]),
        len(release["withdrawn"]),
    )
