"""``mmcl-edge fleet devices``: which devices may upload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option, table
from mmcl_edge.commands.fleet_place import fleet_option, opened
from mmcl_edge.commands.fleet_revoke import find_device

if TYPE_CHECKING:
    from mmcl_edge.fleet.layout import Devices


@click.group()
def command() -> None:
    """Enrol, list and revoke the devices whose uploads are collected."""


@command.command()
@click.argument("name")
@click.option(
    "--key", "key_file", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Public part of its key."
)
@fleet_option
@json_option
def add(name: str, key_file: Path, fleet: str | None, as_json: bool) -> None:
    """Enrol the device NAME with its public key.

    The device writes FILE with 'mmcl-edge keys show --device --public-out FILE'. Compare the fingerprints.

    \b
    Examples:
      mmcl-edge fleet devices add kitchen-7 --key kitchen-7.pub.json
    """  # noqa: D301
    from mmcl_edge.packs.keys import read_public_key

    key = read_public_key(key_file)
    with opened(fleet) as repository:
        devices = repository.enroll(name, key)
    emit(_result(devices), as_json, lambda result: f"Enrolled {name} with the key {key.fingerprint}.")


@command.command("list")
@fleet_option
@json_option
def list_(fleet: str | None, as_json: bool) -> None:
    """List the devices that are enrolled, and those that were revoked.

    \b
    Examples:
      mmcl-edge fleet devices list --json
    """  # noqa: D301
    with opened(fleet) as repository:
        devices = repository.view().devices()
    emit(_result(devices), as_json, _text)


@command.command()
@click.argument("name")
@fleet_option
@json_option
def revoke(name: str, fleet: str | None, as_json: bool) -> None:
    """Collect nothing more from the device NAME (or with that key id); its key never counts again.

    \b
    Examples:
      mmcl-edge fleet devices revoke kitchen-7
    """  # noqa: D301
    with opened(fleet) as repository:
        found = find_device(repository.view().devices(), name) or name
        devices = repository.revoke_device(found)
    emit(_result(devices), as_json, lambda result: f"Revoked {found}: nothing that it uploads is collected any more.")


def _result(devices: Devices) -> dict[str, Any]:
    groups = (("enrolled", devices.devices), ("revoked", devices.revoked))
    return {
        name: [{"name": one.name, "keyid": one.keyid, "fingerprint": one.key.fingerprint} for one in group]
        for name, group in groups
    }


def _text(result: Mapping[str, Any]) -> str:
    rows = [
        (device["name"], device["fingerprint"], state) for state in ("enrolled", "revoked") for device in result[state]
    ]
    return table(("device", "fingerprint", "state"), rows) if rows else "No devices yet."
