"""``mmcl-edge fleet revoke``: a pack that should not be used any more, or a device that is not trusted any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mmcl_edge.commands.console import emit, json_option
from mmcl_edge.commands.fleet_place import fleet_option, opened
from mmcl_edge.commands.fleet_publish import as_result, as_text
from mmcl_edge.errors import FleetError, InputError

if TYPE_CHECKING:
    from mmcl_edge.fleet.layout import Devices
    from mmcl_edge.fleet.view import View

MIN_PREFIX = 6


@click.command()
@click.argument("what")
@click.option("--channel", metavar="C", help="Withdraw the pack from this channel alone.")
@click.option("--pack", is_flag=True, help="WHAT is a pack, though a device is called so, too.")
@click.option("--device", is_flag=True, help="WHAT is a device, though a pack's digest begins so, too.")
@fleet_option
@json_option
def command(what: str, channel: str | None, pack: bool, device: bool, fleet: str | None, as_json: bool) -> None:
    """Withdraw the pack, or revoke the device, that is called WHAT.

    WHAT is the beginning of a pack's digest, or the name or key id of a device. A channel whose release is withdrawn
    goes back to the one before, under a higher counter, and so do its devices. From a device whose key is revoked
    nothing more is collected. Neither can be undone, so a WHAT that names both is refused: say --pack or --device.

    \b
    Examples:
      mmcl-edge fleet revoke 3fa94c
      mmcl-edge fleet revoke kitchen-7 --device
    """  # noqa: D301
    from mmcl_edge.fleet.repository import released

    if device and (pack or channel is not None):
        raise InputError("--device means a device, but --pack and --channel mean a pack; give one of them.")
    with opened(fleet) as repository:
        view = repository.view()
        found = None if pack or channel is not None else find_device(view.devices(), what)
        if device and found is None:
            raise FleetError(f"Expected an enrolled device {what!r}, but there is none; see 'fleet devices list'.")
        if found is not None and not device and _names_a_pack(view, what):
            raise FleetError(
                f"{what!r} names both the device {found!r} and a released pack, and neither can be undone; say "
                "--device or --pack."
            )
        if found is not None:
            repository.revoke_device(found)
            result: dict[str, Any] = {"device": found, "releases": []}
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


def _names_a_pack(view: View, what: str) -> bool:
    """Whether a released pack's digest begins with ``what``, however short that is."""
    releases = [release for name in view.channels() if (release := view.release(name)) is not None]
    return any(item.pack.startswith(what) for release in releases for item in (release.current, *release.earlier))


def _text(result: Mapping[str, Any]) -> str:
    if result["device"] is not None:
        return f"Revoked the device {result['device']}: nothing that it uploads is collected any more."
    return "\n".join(as_text(release) for release in result["releases"])
