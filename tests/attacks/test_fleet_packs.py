"""Hostile packs through sync: every one is refused, and nothing outside ``trust/`` changes.

All of them are signed by the fleet's own keys, as if an admin was careless or robbed: what a device installs is checked
whatever its metadata says.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl_edge.errors import MmclEdgeError, PackError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.health import Examination
from mmcl_edge.fleet.layout import ReleasedPack
from mmcl_edge.packs import read_manifest, read_pack
from mmcl_edge.packs.archive import ORDER, read_archive, write_archive
from mmcl_edge.packs.names import label_id
from mmcl_edge.packs.tensors import serialise
from mmcl_edge.packs.ustar import archive_bytes, header
from tests.builders import OTHER_BUNDLE, forge_file, forge_manifest
from tests.fleets import FleetDevice, SmallFleet

TENSORS = "adapter_model.safetensors"


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    return SmallFleet(tmp_path / "fleet")


@pytest.fixture
def victim(tmp_path: Path, fleet: SmallFleet) -> FleetDevice:
    device = FleetDevice(tmp_path / "device")
    fleet.publish(device.pack())
    assert device.join(fleet).outcome == "in-use"
    return device


def release(fleet: SmallFleet, victim: FleetDevice, digest: str, archive: bytes, **changes: Any) -> None:
    """Sign and release any bytes as the archive of the pack ``digest``."""
    fields = {"pack": digest, "version": 1, "bundle": victim.workspace.bundle_family(), "size_bytes": len(archive)}
    released = ReleasedPack(**fields | changes)
    fleet.put("packs", released.archive, archive)
    fleet.announce("stable", released)
    fleet.commit("packs", "channels")


def archived(folder: Path) -> bytes:
    """The archive of a pack folder, valid or not."""
    return archive_bytes((name, (folder / name).read_bytes()) for name in ORDER if (folder / name).is_file())


def good(victim: FleetDevice) -> Path:
    return victim.pack(2.0)


def forged(change: Callable[[Path], object]) -> Callable[[SmallFleet, FleetDevice], None]:
    """A pack that was harmed, and whose manifest and digest fit what was made of it."""

    def attack(fleet: SmallFleet, victim: FleetDevice) -> None:
        folder = shutil.copytree(good(victim), victim.made / "forged")
        change(folder)
        digest = sha256_bytes((folder / "pack.json").read_bytes())
        release(fleet, victim, digest, archived(folder))

    return attack


def tensors(**values: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: forge_file(folder, TENSORS, serialise(values))


def manifest(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: forge_manifest(folder, lambda found: found.update(changes))


def label(name: str, id_of: str, index: int) -> dict[str, Any]:
    return {"id": label_id(id_of), "name": name, "index": index}


def raw(make: Callable[[bytes, list[tuple[str, bytes]]], bytes]) -> Callable[[SmallFleet, FleetDevice], None]:
    """Another file in the place of a good archive."""

    def attack(fleet: SmallFleet, victim: FleetDevice) -> None:
        pack, file = good(victim), victim.made / "archive"
        write_archive(pack, file)
        members = list(read_archive(file).files.items())
        release(fleet, victim, pack.name, make(file.read_bytes(), members))

    return attack


def tar_of(kind: bytes, name: str = "pack.json", **fields: str) -> Callable[..., bytes]:
    def make(data: bytes, members: list[tuple[str, bytes]]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            info = tarfile.TarInfo(name)
            info.type = kind
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info)
        return out.getvalue() + data

    return make


def claims_a_tebibyte(data: bytes, members: list[tuple[str, bytes]]) -> bytes:
    before = archive_bytes(members[:-1])[:-1024]
    return before + header(TENSORS, 8**11 - 1) + bytes(4096)


def thousands_of_members(data: bytes, members: list[tuple[str, bytes]]) -> bytes:
    return archive_bytes([*members, *[(f"member{number}", b"") for number in range(5000)]])


def header_of_tensors_claims(size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / TENSORS).read_bytes()
        forge_file(folder, TENSORS, size.to_bytes(8, "little") + data[8:])

    return change


def another_pack_than_named(fleet: SmallFleet, victim: FleetDevice) -> None:
    release(fleet, victim, victim.pack(2.0).name, archived(victim.pack(3.0)))


def another_bundle_than_said(fleet: SmallFleet, victim: FleetDevice) -> None:
    pack = victim.pack(2.0, bundle_digest=OTHER_BUNDLE)
    release(fleet, victim, pack.name, archived(pack))


def for_another_bundle(fleet: SmallFleet, victim: FleetDevice) -> None:
    pack = victim.pack(2.0, bundle_digest=OTHER_BUNDLE)
    release(fleet, victim, pack.name, archived(pack), bundle=OTHER_BUNDLE)


DOWN = "blocks.0.experts.e0.audio.down"
ATTACKS: dict[str, tuple[Callable[[SmallFleet, FleetDevice], None], type[MmclEdgeError], str]] = {
    "NaN": (forged(tensors(**{DOWN: torch.full((2, 3), torch.nan)})), PackError, "finite"),
    "infinity": (forged(tensors(**{DOWN: torch.full((2, 3), torch.inf)})), PackError, "finite"),
    "huge norm": (forged(tensors(**{DOWN: torch.full((2, 3), 1e30)})), PackError, "no value above"),
    "label-map hijack": (
        forged(manifest(labels=[label("dog", "cät", 0), label("cät", "dog", 1)])),
        PackError,
        "should have the id",
    ),
    "a label that climbs": (
        forged(manifest(labels=[label("a/../../x", "a/../../x", 0), label("dog", "dog", 1)], sample_counts={})),
        PackError,
        "separator",
    ),
    "future schema": (forged(manifest(schema_version=99)), PackError, "schema version 99"),
    "future release": (forged(manifest(minimum_runtime="99.0.0")), PackError, "99.0.0"),
    "oversized tensor header": (forged(header_of_tensors_claims(1 << 40)), PackError, "header claims"),
    "pickle for tensors": (forged(lambda folder: forge_file(folder, TENSORS, b"\x80\x04K\x01.")), PackError, "bytes"),
    "another pack than named": (another_pack_than_named, PackError, "Expected the pack"),
    "another bundle than said": (another_bundle_than_said, PackError, "made for the bundle"),
    "for another bundle": (for_another_bundle, PackError, "--replace"),
    "archive claims a tebibyte": (raw(claims_a_tebibyte), PackError, "claims|malformed|mmcl-edge writes"),
    "archive of thousands of members": (raw(thousands_of_members), PackError, "no more"),
    "compressed archive": (raw(lambda data, members: gzip.compress(bytes(100 << 20))), PackError, "compressed"),
    "archive and more": (raw(lambda data, members: data + b"more"), PackError, "follow"),
    "symbolic link": (raw(tar_of(tarfile.SYMTYPE, linkname="/etc/passwd")), PackError, "symbolic link"),
    "hard link": (raw(tar_of(tarfile.LNKTYPE, linkname="/etc/passwd")), PackError, "hard link"),
    "device file": (raw(tar_of(tarfile.CHRTYPE)), PackError, "device"),
    "path traversal": (raw(lambda data, members: archive_bytes([("../../outside", b"x")])), PackError, "outside"),
    "absolute path": (raw(lambda data, members: archive_bytes([("/tmp/outside", b"x")])), PackError, "outside"),
    "garbage": (raw(lambda data, members: b"garbage" * 1000), PackError, "tar"),
    "nothing": (raw(lambda data, members: bytes(1024)), PackError, "its end"),
}


@pytest.mark.parametrize(("attack", "error", "words"), ATTACKS.values(), ids=ATTACKS)
def test_refused_and_nothing_changed(
    fleet: SmallFleet, victim: FleetDevice, tmp_path: Path, attack: Callable[..., None], error: type, words: str
):
    attack(fleet, victim)
    before, links, outside = victim.outside_trust(), victim.links(), set(tmp_path.iterdir())
    with pytest.raises(error, match=words):
        victim.sync()
    assert (victim.outside_trust(), victim.links()) == (before, links)
    assert set(tmp_path.iterdir()) == outside
    assert not list(victim.workspace.trust_path.glob(".staging-*"))


def test_a_bomb_is_not_read_into_memory(fleet: SmallFleet, victim: FleetDevice):
    import tracemalloc

    raw(lambda data, members: gzip.compress(bytes(200 << 20)))(fleet, victim)
    tracemalloc.start()
    with pytest.raises(PackError, match="compressed"):
        victim.sync()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def test_a_hostile_delta_gives_way_to_the_whole_pack(fleet: SmallFleet, victim: FleetDevice):
    """A delta that gives other bytes than the pack's is not used; where the whole pack is good, that is."""
    parent, new = victim.workspace.current_pack(), victim.pack(2.0)
    released = fleet.add_pack(new, parents=[parent])
    path = f"packs/{new.name}.from-{parent.name}.pack"
    data = bytearray(fleet.object(path).read_bytes())
    members = data.rindex(b"\x00\x00\x00\x40")  # a 2.0 of the tensors
    data[members + 3] = 0x41
    fleet.put("packs", path, bytes(data))
    fleet.announce("stable", released)
    fleet.commit("packs", "channels")
    report = victim.sync()
    assert (report.in_use, report.delta_from) == (new.name, None)


def test_a_delta_from_a_damaged_parent_is_never_used(fleet: SmallFleet, victim: FleetDevice):
    parent, new = victim.workspace.current_pack(), victim.pack(2.0)
    fleet.publish(new, parents=[parent])
    data = bytearray((parent / TENSORS).read_bytes())
    data[-1] ^= 1
    (parent / TENSORS).write_bytes(bytes(data))
    report = victim.sync()
    assert (report.in_use, report.delta_from) == (new.name, None)
    assert read_pack(victim.workspace.current_pack()).digest == new.name


def test_classes_that_changed_places_are_found_by_the_canaries(fleet: SmallFleet, victim: FleetDevice):
    """Every id fits its name, but the head's rows were exchanged: no format can tell, and the stored samples do."""
    folder = victim.pack(2.0, labels=("cät", "dog"))
    victim.examiner.asked = frozenset({"dog", "cät"})
    victim.examiner.usual = Examination(10, 10, victim.examiner.asked)
    victim.examiner.answers[folder.name] = Examination(0, 10, victim.examiner.asked)
    fleet.publish(folder)
    before, links = victim.outside_trust(), victim.links()
    report = victim.sync()
    assert report.outcome == "refused"
    assert "0.0 % of 10 canaries" in report.reason
    assert (victim.outside_trust(), victim.links()) == (before, links)


def test_a_pack_whose_model_breaks_down_is_refused(fleet: SmallFleet, victim: FleetDevice, monkeypatch):
    def broken(pack: Path) -> Examination:
        if pack.name == links[0]:
            return victim.examiner.usual
        raise PackError("its model breaks down")

    links = victim.links()
    fleet.publish(good(victim))
    monkeypatch.setattr(victim.examiner, "examine", broken)
    assert victim.sync().outcome == "refused"
    assert victim.links() == links


def test_the_good_pack_is_taken(fleet: SmallFleet, victim: FleetDevice):
    pack = good(victim)
    release(fleet, victim, pack.name, archived(pack))
    assert victim.sync().in_use == pack.name
    assert json.loads((victim.workspace.current_pack() / "pack.json").read_bytes())["version"] == 1
    assert read_manifest(victim.workspace.current_pack())[1] == pack.name
