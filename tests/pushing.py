"""Devices that push, and what an admin collects from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from securesystemslib.signer import CryptoSigner

from mmcl_edge.fleet.inbox import Finding, collect
from mmcl_edge.fleet.layout import Device, Devices
from mmcl_edge.fleet.push import PushReport, push
from mmcl_edge.fleet.store import Store
from mmcl_edge.packs.keys import KeyStore, device_keys_folder
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.types import Sample
from tests.fleets import FleetDevice, SmallFleet

SMALL = 4096
"""Bytes of a piece in these tests."""


class PushingDevice(FleetDevice):
    """A device with a key, that has joined a fleet and uses its release."""

    def __init__(self, folder: Path, fleet: SmallFleet, base: Path | None = None) -> None:
        super().__init__(folder)
        self.fleet = fleet
        self.base = self.pack() if base is None else base
        if base is None:
            fleet.publish(self.base)
        self.join(fleet)
        self.keys = KeyStore(device_keys_folder(self.workspace.trust_path))
        self.key = self.keys.new("device")

    @property
    def signer(self) -> CryptoSigner:
        return self.keys.signer("device")

    def enrolled(self, name: str = "porch") -> Device:
        return Device(name=name, key=self.key)

    def learn(self, value: float) -> Path:
        """Put a child of the pack in use in use, with exemplars."""
        before = self.workspace.current_pack()
        pack = self.child(before, value)
        self.workspace.install_pack(pack)
        rng = np.random.default_rng(int(value))
        picture = rng.integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
        sound = rng.uniform(-1, 1, 4000).astype(np.float32)
        samples = (Sample(sound, picture, "dog", "holiday-of-1999.wav"),)
        ReplayStore(self.workspace.replay_path).write(pack.name, Exemplars(samples, ()))
        self.workspace.use_pack(pack.name)
        return pack

    def push(self, **changes: object) -> PushReport:
        return push(self.workspace, self.signer, **{"chunk_bytes": SMALL, **changes})


def collected(device: PushingDevice, out: Path, **changes: object) -> tuple[Finding, ...]:
    """What becomes of the inbox of the device's fleet; by default that device alone is enrolled."""
    devices = changes.pop("devices", Devices(devices=(device.enrolled(),)))
    return collect(Store.open(device.fleet.url), devices, out, **changes)


def inbox(fleet: SmallFleet) -> dict[str, bytes]:
    """Everything in the inbox, by path."""
    root = fleet.folder / "inbox"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
