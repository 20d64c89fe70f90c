"""The rules of enrolment, as pure functions from one ``Devices`` to the next. A revoked key never counts again."""

from __future__ import annotations

from mmcl_edge.errors import FleetError
from mmcl_edge.fleet.layout import Device, Devices, check_device_name
from mmcl_edge.packs.keys import PublicKey


def with_device(before: Devices, name: str, key: PublicKey) -> Devices:
    """``before`` and the device ``name``; ``before`` itself if it is enrolled with that key already.

    Raises:
        FleetError: the name or the key belongs to another device, or the key was revoked.
    """
    check_device_name(name)
    known = before.enrolled(key.keyid)
    if known is not None and known.name == name:
        return before
    if before.was_revoked(key.keyid):
        raise FleetError(f"The key {key.keyid[:16]}... was revoked; make the device another (keys rotate --device).")
    if known is not None:
        raise FleetError(f"That key belongs to the device {known.name!r}; each device makes its own.")
    if any(device.name == name for device in before.devices):
        raise FleetError(f"A device {name!r} is enrolled with another key; revoke that first, or choose another name.")
    return Devices(devices=(*before.devices, Device(name=name, key=key)), revoked=before.revoked)


def without_device(before: Devices, name: str) -> Devices:
    """``before`` after the key of the device ``name`` (or with that key id) was revoked.

    Raises:
        FleetError: no such device is enrolled.
    """
    gone = [device for device in before.devices if name in (device.name, device.keyid)]
    if not gone:
        raise FleetError(f"No device {name!r} is enrolled; see 'mmcl-edge fleet devices list'.")
    left = tuple(device for device in before.devices if device not in gone)
    return Devices(devices=left, revoked=(*before.revoked, *gone))
