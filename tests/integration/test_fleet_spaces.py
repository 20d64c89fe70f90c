"""Modalities learned on several devices come to all of them: taught, pushed, collected, merged, released, followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl_edge.config import AdaptConfig
from mmcl_edge.fleet.inbox import collect
from mmcl_edge.fleet.joining import Invitation
from mmcl_edge.fleet.layout import Device, Devices
from mmcl_edge.fleet.merge import merge_packs
from mmcl_edge.fleet.push import push
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.sync import SyncReport, SyncRequest, sync
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.keys import KeyStore, device_keys_folder
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.adapt_pairs import PairRequest, adapt_pairs
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.install import bring_pack
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import request, write_task
from tests.conftest import TinyBundle
from tests.fleets import SmallFleet
from tests.integration.test_data_makers import write_sound
from tests.predicting import picture, sound
from tests.space_packs import CAPTIONS, TINY, shown


class Member:
    """A device of the fleet."""

    def __init__(self, folder: Path, bundle: Path, fleet: SmallFleet) -> None:
        self.folder, self.fleet = folder, fleet
        self.workspace = Workspace(folder / "home").create()
        self.workspace.install_bundle(bundle)
        self.keys = KeyStore(device_keys_folder(self.workspace.trust_path))
        self.key = self.keys.new("device")

    def sync(self) -> SyncReport:
        invitation = Invitation(url=self.fleet.url, root=self.fleet.root)
        asked = SyncRequest(invitation=invitation, tolerance=1.0, provider="cpu", threads=1)
        return sync(self.workspace, asked)

    def learn(self, modality: str) -> None:
        """Teach a modality from pairs, and push what came of it."""
        data = self.folder / modality
        data.mkdir()
        for row, caption in enumerate(CAPTIONS):
            if modality == "image":
                Image.fromarray(picture(seed=row)).save(data / f"{row}.png")
            else:
                write_sound(data / f"{row}.wav", sound(0.5, seed=row))
            (data / f"{row}.txt").write_text(f"{caption}\n")
        how = AdaptConfig(tolerance=1.0, holdout_fraction=0.3)
        space = TINY if self.workspace.current_pack() is None else None
        asked = PairRequest(modality, data, space=space, adapt=how, provider="cpu", threads=1)
        assert adapt_pairs(self.workspace, asked).accepted

    def push(self) -> Path:
        push(self.workspace, self.keys.signer("device"), url=self.fleet.url)
        return self.pack

    @property
    def pack(self) -> Path:
        found = self.workspace.current_pack()
        assert found is not None
        return found

    def modalities(self) -> tuple[str, ...]:
        space = read_pack(self.pack).space()
        return () if space is None else space.modalities


@pytest.fixture
def members(tmp_path: Path, tiny: TinyBundle) -> dict[str, Member]:
    fleet = SmallFleet(tmp_path / "fleet")
    return {name: Member(tmp_path / name, tiny("captioned").path, fleet) for name in ("first", "hall", "attic", "desk")}


def test_what_each_learned_comes_to_all(members: dict[str, Member], tmp_path: Path, tiny: TinyBundle):
    first, hall, attic, desk = members.values()
    write_task(desk.workspace, "bells", {"low": "pair", "high": "pair"}, count=6)
    assert adapt(desk.workspace, request("bells")).accepted

    first.learn("image")
    first.fleet.publish(first.pack)
    assert [one.sync().outcome for one in (hall, attic, desk)] == ["in-use"] * 3
    assert desk.modalities() == ("text", "image")
    assert read_pack(desk.pack).manifest.label_names == ("high", "low"), "its classes ride on the released space"

    hall.learn("sound")
    attic.learn("speech")
    sent = [hall.push(), attic.push()]
    out = tmp_path / "collected"
    bring_pack(read_pack(first.pack), out / first.pack.name)
    devices = Devices(devices=tuple(Device(name=n, key=members[n].key) for n in ("hall", "attic")))
    found = collect(Store.open(first.fleet.url), devices, out)
    assert {(one.status, one.modalities) for one in found} == {
        ("new", ("text", "image", "sound")),
        ("new", ("text", "image", "speech")),
    }
    merged = merge_packs([out / pack.name for pack in sent], tmp_path / "merged", base=first.pack)
    assert merged.path is not None
    first.fleet.publish(merged.path, parents=[first.pack])

    for one in (hall, attic, desk, first):
        report = one.sync()
        assert report.outcome == "in-use", (report.reason, one.folder)
        assert set(one.modalities()) == {"text", "image", "sound", "speech"}
    assert read_pack(desk.pack).manifest.label_names == ("high", "low")
    assert hall.pack == hall.workspace.packs_path / merged.path.name
    assert {one.modality for one in ReplayStore(hall.workspace.replay_path).read(hall.pack.name).pairs} == {"sound"}

    with Runtime.open(tiny("captioned").path, desk.pack, provider="cpu", threads=1) as runtime:
        pictures = runtime.embed([shown(row) for row in range(8)], "image")
        sounds = runtime.embed([shown(row, "sound") for row in range(8)], "sound")
        assert np.allclose(np.linalg.norm(pictures, axis=1), 1.0, atol=1e-5)
        right = float(np.diag(pictures @ sounds.T).mean())
        assert right > float((pictures @ sounds.T).mean()), "never shown together, and on different devices"
        assert runtime.predict_batch([shown(0)])[0].label in ("high", "low")
