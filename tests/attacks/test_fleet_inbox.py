"""Attacks through the inbox, which anybody may be able to write: each is named and left out, and the rest goes on.

Beside every attack an honest device's upload lies in the inbox, and it is collected.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.inbox import Finding, list_inbox
from mmcl_edge.fleet.layout import Devices, Upload
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.uploads import SharedExemplar, SharedIndex, pack_exemplars, pieces, seal
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.packs.signing import claimed_signers, sign_pack, verified_signers
from mmcl_edge.runtime.install import bring_pack
from tests.builders import OTHER_BUNDLE, snapshot
from tests.fleets import SmallFleet
from tests.pushing import SMALL, PushingDevice, collected


class Scene:
    """A fleet with an honest device and a hostile one, both enrolled, and a folder to collect into."""

    def __init__(self, folder: Path) -> None:
        self.fleet = SmallFleet(folder / "fleet")
        self.honest = PushingDevice(folder / "honest", self.fleet)
        self.hostile = PushingDevice(folder / "hostile", self.fleet, self.honest.base)
        self.out = folder / "out"
        bring_pack(read_pack(self.honest.base), self.out / self.honest.base.name)
        self.good = self.honest.learn(3.0)
        self.honest.push()
        self.devices = Devices(devices=(self.honest.enrolled("honest"), self.hostile.enrolled("hostile")))

    @property
    def inbox(self) -> Path:
        return self.fleet.folder / "inbox"

    def place(self, pack: str, device: PushingDevice | None = None) -> Path:
        """Folder of an upload; by default of the hostile device."""
        return self.inbox / (device or self.hostile).key.keyid / pack

    def collect(self, **changes: Any) -> dict[str, Finding]:
        """Findings by the name of the device, or by key id."""
        found = collected(self.honest, self.out, **{"devices": self.devices, **changes})
        return {finding.device or finding.keyid: finding for finding in found}

    def upload(self, folder: Path, *, signer: CryptoSigner | None = None, **changes: Any) -> Path:
        """Lay an upload of the pack in ``folder`` into the inbox as the hostile device would, with lies."""
        signed_by = changes.pop("pack_signer", self.hostile.signer)
        if signed_by is not None:
            sign_pack(folder, signed_by)
        write_archive(folder, folder.parent / "archive")
        archive = changes.pop("archive", (folder.parent / "archive").read_bytes())
        exemplars = changes.pop("exemplars", b"")
        manifest = read_pack(folder).manifest
        fields: dict[str, Any] = {
            "keyid": self.hostile.key.keyid,
            "pack": folder.name,
            "version": manifest.version,
            "bundle": manifest.bundle_digest,
            "archive_sha256": sha256_bytes(archive),
            "size_bytes": len(archive),
            "chunk_bytes": SMALL,
            "counter": 1,
            "exemplars_sha256": sha256_bytes(exemplars) if exemplars else None,
            "exemplars_bytes": len(exemplars),
        }
        upload = Upload.model_construct(**{"schema_version": 1, "parent": None, **fields, **changes})
        place = self.place(folder.name)
        place.mkdir(parents=True)
        for blob in (archive, exemplars):
            for name, piece in pieces(blob, SMALL):
                (place / name).write_bytes(piece)
        (place / "upload.json").write_bytes(seal(upload, signer or self.hostile.signer))
        return place


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def revoked_device(scene: Scene) -> None:
    scene.hostile.learn(5.0)
    scene.hostile.push()
    honest, hostile = scene.devices.devices
    scene.devices = Devices(devices=(honest,), revoked=(hostile,))


def stranger(scene: Scene) -> None:
    revoked_device(scene)
    scene.devices = Devices(devices=scene.devices.devices)


def wrong_key_for_the_description(scene: Scene) -> None:
    scene.upload(scene.hostile.pack(5.0), signer=CryptoSigner.generate_ed25519())


def key_of_another_device(scene: Scene) -> None:
    scene.upload(scene.hostile.pack(5.0), signer=scene.honest.signer)


def wrong_key_for_the_pack(scene: Scene) -> None:
    scene.upload(scene.hostile.pack(5.0), pack_signer=CryptoSigner.generate_ed25519())


def unsigned_pack(scene: Scene) -> None:
    scene.upload(scene.hostile.pack(5.0), pack_signer=None)


def pack_of_another_device(scene: Scene) -> None:
    """Somebody else's signed pack, described as one's own."""
    folder = shutil.copytree(scene.good, scene.hostile.made / scene.good.name)
    scene.upload(folder, pack_signer=scene.honest.signer)


def moved_to_another_device(scene: Scene) -> None:
    """Replayed: the whole upload of the honest device, under the hostile one's id."""
    shutil.copytree(scene.place(scene.good.name, scene.honest), scene.place(scene.good.name))


def moved_to_another_pack(scene: Scene) -> None:
    place = scene.upload(scene.hostile.pack(5.0))
    place.rename(place.parent / ("d" * 64))


def description(data: bytes) -> Callable[[Scene], None]:
    def attack(scene: Scene) -> None:
        (scene.upload(scene.hostile.pack(5.0)) / "upload.json").write_bytes(data)

    return attack


def endless_description(scene: Scene) -> None:
    with (scene.upload(scene.hostile.pack(5.0)) / "upload.json").open("wb") as file:
        file.truncate(1 << 40)


def description_changed_after_signing(scene: Scene) -> None:
    path = scene.upload(scene.hostile.pack(5.0)) / "upload.json"
    envelope = json.loads(path.read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b'"counter":1', b'"counter":7')
    path.write_bytes(json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}).encode())


def description_with(**fields: Any) -> Callable[[Scene], None]:
    """A description as the device would write it, but for fields of its envelope."""

    def attack(scene: Scene) -> None:
        path = scene.upload(scene.hostile.pack(5.0)) / "upload.json"
        path.write_bytes(json.dumps(json.loads(path.read_bytes()) | fields, ensure_ascii=False).encode())

    return attack


def lies(**changes: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.upload(scene.hostile.pack(5.0), **changes) and None


def endless_piece(scene: Scene) -> None:
    place = scene.upload(scene.hostile.pack(5.0))
    with next(place.glob("*.00000")).open("r+b") as file:
        file.truncate(1 << 40)


def missing_piece(scene: Scene) -> None:
    next(scene.upload(scene.hostile.pack(5.0)).glob("*.00001")).unlink()


def changed_piece(scene: Scene) -> None:
    piece = next(scene.upload(scene.hostile.pack(5.0)).glob("*.00000"))
    piece.write_bytes(b"x" * SMALL)


def archive_of(data: bytes) -> Callable[[Scene], None]:
    return lambda scene: scene.upload(scene.hostile.pack(5.0), archive=data) and None


def archive_of_another_pack(scene: Scene) -> None:
    write_archive(scene.good, scene.hostile.made / "other")
    scene.upload(scene.hostile.pack(5.0), archive=(scene.hostile.made / "other").read_bytes())


def delta_from_nowhere(scene: Scene) -> None:
    parent, child = scene.hostile.pack(8.0), scene.hostile.pack(5.0)
    sign_pack(child, scene.hostile.signer)
    write_archive(child, scene.hostile.made / "delta", parent=parent)
    scene.upload(child, archive=(scene.hostile.made / "delta").read_bytes(), parent=parent.name)


def exemplars_of(*objects: tuple[str, bytes], named: tuple[str, ...] = ()) -> Callable[[Scene], None]:
    """Shared exemplars with these objects, by the digests they claim; the index names ``named``."""

    def attack(scene: Scene) -> None:
        index = SharedIndex(exemplars=tuple(SharedExemplar(side="train", label="dog", object=one) for one in named))
        scene.upload(scene.hostile.pack(5.0), exemplars=pack_exemplars(index, dict(objects)))

    return attack


def exemplars_that_climb(scene: Scene) -> None:
    from mmcl_edge.packs.ustar import archive_bytes

    data = archive_bytes([("index.json", b'{"schema_version":1}'), ("../../outside", b"x")])
    scene.upload(scene.hostile.pack(5.0), exemplars=data)


A = "a" * 64
ATTACKS: dict[str, tuple[Callable[[Scene], None], str]] = {
    "revoked device": (revoked_device, "revoked"),
    "device that was never enrolled": (stranger, "not enrolled"),
    "wrong key for the description": (wrong_key_for_the_description, "should be signed by the key"),
    "key of another device": (key_of_another_device, "should be signed by the key"),
    "wrong key for the pack": (wrong_key_for_the_pack, "At least 1 of 1"),
    "unsigned pack": (unsigned_pack, "not signed"),
    "pack of another device": (pack_of_another_device, "At least 1 of 1"),
    "replayed under another device": (moved_to_another_device, "should be signed by the key"),
    "replayed under another pack": (moved_to_another_pack, "somebody moved it"),
    "garbage for a description": (description(b"garbage"), "signed envelope"),
    "empty description": (description(b""), "signed envelope"),
    "description nested too deep": (description(b"[" * 50_000), "signed envelope"),
    "description whose payload is not ASCII": (description_with(payload="é"), "signed envelope"),
    "description whose payload is no base64": (description_with(payload="AAAAA"), "signed envelope"),
    "description that is an envelope of another kind": (description_with(payloadType="text/plain"), "of the type"),
    "description that nobody signed": (description_with(signatures=[]), "signed by the key"),
    "endless description": (endless_description, "at most"),
    "description changed after signing": (description_changed_after_signing, "was changed"),
    "description of a future schema": (lies(schema_version=2), "schema_version"),
    "description with a negative size": (lies(size_bytes=-1), "size_bytes"),
    "description of a tebibyte": (lies(size_bytes=1 << 40), "size_bytes"),
    "description of a gibibyte": (lies(size_bytes=1 << 30), "at most"),
    "description of pieces of one byte": (lies(chunk_bytes=1), "chunk_bytes"),
    "description of another hash": (lies(archive_sha256=A), "Piece 1"),
    "description of another version": (lies(version=9), "version 9"),
    "description of another bundle": (lies(bundle=OTHER_BUNDLE), "bundle"),
    "description with a path for a pack": (lies(pack="../../outside"), "pack"),
    "endless piece": (endless_piece, "Piece 1"),
    "missing piece": (missing_piece, "Piece 2"),
    "changed piece": (changed_piece, "one was changed"),
    "garbage for an archive": (archive_of(b"garbage" * 500), "tar"),
    "archive of another pack": (archive_of_another_pack, "Expected the pack"),
    "delta from a pack that nobody has": (delta_from_nowhere, "not here"),
    "exemplar that is not what its name says": (exemplars_of((A, b"x"), named=(A,)), "not one that the index names"),
    "exemplar that the index does not name": (exemplars_of((A, b"x")), "not one that the index names"),
    "exemplar that is missing": (exemplars_of(named=(A,)), "missing"),
    "exemplars that climb": (exemplars_that_climb, "not one that the index names"),
}


@pytest.mark.parametrize(("attack", "words"), ATTACKS.values(), ids=ATTACKS)
def test_left_out_by_name_and_the_others_are_collected(
    scene: Scene, tmp_path: Path, attack: Callable[[Scene], None], words: str
):
    attack(scene)
    outside = {path for path in tmp_path.iterdir() if path != scene.out}
    found = scene.collect()
    assert found.pop("honest").status == "new"
    (bad,) = found.values()
    assert bad.status == "refused"
    assert words in bad.reason
    assert {path.name for path in scene.out.iterdir()} == {scene.honest.base.name, scene.good.name, "collected.json"}
    assert {path for path in tmp_path.iterdir() if path != scene.out} == outside
    before = snapshot(scene.out)
    again = scene.collect()
    assert again["honest"].status == "collected"
    assert snapshot(scene.out) == before


def test_a_replayed_upload_is_recognised(scene: Scene):
    """An attacker keeps an upload and puts it back after it was collected and removed."""
    place = scene.place(scene.good.name, scene.honest)
    shutil.copytree(place, scene.fleet.folder.parent / "kept")
    assert scene.collect()["honest"].status == "new"
    shutil.rmtree(scene.inbox)
    shutil.copytree(scene.fleet.folder.parent / "kept", place)
    before = snapshot(scene.out)
    assert scene.collect()["honest"].status == "collected"
    assert snapshot(scene.out) == before


def test_an_older_upload_is_recognised(scene: Scene):
    """An attacker held back the first upload of a device until the second was collected."""
    place = scene.place(scene.good.name, scene.honest)
    shutil.move(place, scene.fleet.folder.parent / "kept")
    scene.honest.learn(4.0)
    scene.honest.push()
    assert scene.collect()["honest"].status == "new"
    shutil.rmtree(scene.inbox)
    shutil.move(scene.fleet.folder.parent / "kept", place)
    finding = scene.collect()["honest"]
    assert finding.status == "refused"
    assert "upload 1 of this device, but 2 was collected" in finding.reason


def test_garbage_under_a_good_key_spoils_no_signature_file(scene: Scene):
    """A hostile device uploads the honest device's pack first, with garbage under the honest key, and under others."""
    folder = shutil.copytree(scene.good, scene.hostile.made / "copies" / scene.good.name)
    sign_pack(folder, scene.hostile.signer)
    path = folder / "signatures.json"
    raw = json.loads(path.read_bytes())
    garbage = base64.b64encode(bytes(64)).decode()
    raw["signatures"] += [{"keyid": keyid, "sig": garbage} for keyid in (scene.honest.key.keyid, A)]
    path.write_text(json.dumps(raw))
    scene.upload(folder, pack_signer=None)
    honest, hostile = scene.devices.devices
    scene.devices = Devices(devices=(hostile,))
    assert scene.collect()["hostile"].status == "new"
    assert claimed_signers(read_pack(scene.out / scene.good.name)) == (hostile.keyid,)
    (scene.out / scene.good.name / "signatures.json").write_text(json.dumps(raw))  # as it was kept once
    scene.devices = Devices(devices=(honest, hostile))
    assert scene.collect()["honest"].status == "new"
    keys = [honest.key.key, hostile.key.key]
    assert verified_signers(scene.out / scene.good.name, keys) == {honest.keyid, hostile.keyid}


STRANGE_NAMES = {
    "folder that is no key": "inbox/not-a-key/" + "a" * 64 + "/upload.json",
    "folder that is no pack": f"inbox/{'a' * 64}/not-a-pack/upload.json",
    "another file": f"inbox/{'a' * 64}/{'b' * 64}/run.sh",
    "deeper": f"inbox/{'a' * 64}/{'b' * 64}/c/upload.json",
    "right below": "inbox/upload.json",
    "capitals": f"inbox/{'A' * 64}/{'b' * 64}/upload.json",
    "dots": f"inbox/{'a' * 64}/{'b' * 64}/...",
}


@pytest.mark.parametrize("name", STRANGE_NAMES.values(), ids=STRANGE_NAMES)
def test_strange_names_are_told_and_never_used(scene: Scene, name: str):
    scene.fleet.write(name, b"x")
    found = list_inbox(Store.open(scene.fleet.url))
    assert [path.lower() for path in found.strangers] == [name.lower()]
    assert set(scene.collect()) == {"honest"}


def test_names_that_climb_are_told_and_never_used(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    """A hostile store may list anything."""
    from datetime import datetime, timezone

    from mmcl_edge.fleet.store import Stored

    hostile = ["inbox/../../etc/passwd", f"inbox/../{'a' * 64}/upload.json", "/etc/passwd", "inbox/\x00/a/b", ""]
    now = datetime.now(timezone.utc)
    monkeypatch.setattr(Store, "list", lambda self, prefix: iter([Stored(name, 1, now) for name in hostile]))
    assert list_inbox(Store.open(scene.fleet.url)).strangers == tuple(sorted(hostile))


def test_a_listing_that_lies_about_sizes_reads_no_more_than_it_should(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    """The store lists small pieces and then sends large ones."""
    place = scene.upload(scene.hostile.pack(5.0))
    listed = {entry.keyid: entry for entry in list_inbox(Store.open(scene.fleet.url)).entries}
    with next(place.glob("*.00000")).open("r+b") as file:
        file.truncate(1 << 40)
    from mmcl_edge.fleet import inbox as module

    monkeypatch.setattr(module, "list_inbox", lambda store: module.Listing(tuple(listed.values()), ()))
    found = scene.collect()
    assert "at most" in found["hostile"].reason
    assert found["honest"].status == "new"
