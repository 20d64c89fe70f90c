"""``mmcl-edge fleet revoke``: a pack that should not be used any more, or a device that is not trusted any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import fleet_option, opened
from mmcl_edge.commands.fleet_publish import as_result, as_text
from mmcl_edge.errors import FleetError

if TYPE_CHECKING:
    from mmcl_edge.fleet.layout import Devices

MIN_PREFIX = 6


@click.command()
@click.argument("what")
@click.option("--channel", metavar="C", help="Withdraw the pack from this channel alone.")
@fleet_option
@json_option
def command(what: str, channel: str | None, fleet: str | None, as_json: bool) -> None:
    """Withdraw the pack, or revoke the device, that is called WHAT.

    WHAT is the beginning of a pack's digest, or the name or key id of a device. A channel whose release is withdrawn
    goes back to the one before, under a higher counter, and so do its devices. From a device whose key is revoked
    nothing more is collected. Neither can be undone.

    \b
    Examples:
      mmcl-edge fleet revoke 3fa94c
      mmcl-edge fleet revoke kitchen-7
    """  # noqa: D301
    from mmcl_edge.fleet.repository import released

    with opened(fleet) as repository:
        view = repository.view()
        device = find_device(view.devices(), what) if channel is None else None
        if device is not None:
            repository.revoke_device(device)
            result: dict[str, Any] = {"device": device, "releases": []}
        else:
            changed = repository.withdraw(released(view, what), channel)
            result = {"device": None, "releases": [as_result(release) for release in changed]}
    emit(result, as_json, _text)


def find_device(devices: Devices, what: str) -> str | None:
    """Name of the enrolled device that ``what`` names (or the beginning of its key id); ``None`` where none is.

    Raises:
        FleetError: more than one key begins so.
    """
    if any(device.name == what for device in devices.devices):
        return what
    found = [device.name for device in devices.devices if len(what) >= MIN_PREFIX and device.keyid.startswith(what)]
    if len(found) > 1:
        raise FleetError(f"The keys of {', '.join(found)} all begin with {what!r}; give more of it, or a name.")
    return found[0] if found else None


def _text(result: Mapping[str, Any]) -> str:
    if result["device"] is not None:
        return f"Revoked the device {result['device']}: nothing that it uploads is collected any more."
    return "\n".join(as_text(release) for release in result["releases"])
