"""Attacks on what a fleet's store says: every one is refused with a sentence, and nothing outside ``trust/`` changes.

Each is done to a device that has joined and uses release 1, and by an attacker who can write anything into the store
but has no key (or only the key that the attack names).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import MetaFile, TargetFile

from mmcl_edge.errors import ExpiredError, MissingObjectError, MmclEdgeError, StoreError, TrustError
from mmcl_edge.fleet.store import Store
from tests.fleets import FleetDevice, SmallFleet, signers


class Victim(FleetDevice):
    """A device that uses release 1; ``second`` is a pack that may come next."""

    def __init__(self, folder: Path, fleet: SmallFleet) -> None:
        super().__init__(folder)
        self.first, self.second = self.pack(1.0), self.pack(2.0)
        fleet.publish(self.first)
        assert self.join(fleet).outcome == "in-use"


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    return SmallFleet(tmp_path / "fleet", root_keys=2, threshold=2)


@pytest.fixture
def victim(tmp_path: Path, fleet: SmallFleet) -> Victim:
    return Victim(tmp_path / "device", fleet)


def metadata(fleet: SmallFleet, name: str) -> Path:
    return fleet.folder / "metadata" / name


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what signed metadata says, and leave the signatures as they were."""
    data = json.loads(path.read_bytes())
    change(data["signed"])
    path.write_bytes(json.dumps(data).encode())


def put_back(fleet: SmallFleet, path: Path) -> Callable[[], object]:
    """Remember a file, to put it back later."""
    data = path.read_bytes()
    return lambda: path.write_bytes(data)


def rollback_of_timestamp(fleet: SmallFleet, victim: Victim) -> None:
    restore = put_back(fleet, metadata(fleet, "timestamp.json"))
    fleet.publish(victim.second)
    assert victim.sync().outcome == "in-use"
    restore()


def rollback_of_snapshot(fleet: SmallFleet, victim: Victim) -> None:
    """The key of timestamps was stolen: a new timestamp names an old snapshot."""
    fleet.publish(victim.second)
    assert victim.sync().outcome == "in-use"
    fleet.roles["timestamp"].signed.snapshot_meta = MetaFile(version=fleet.roles["snapshot"].signed.version - 1)
    fleet.sign("timestamp")


def rollback_of_a_role(fleet: SmallFleet, victim: Victim) -> None:
    """The keys of snapshot and timestamp were stolen: a new snapshot names old metadata of the channels."""
    fleet.publish(victim.second)
    assert victim.sync().outcome == "in-use"
    fleet.roles["snapshot"].signed.meta["channels.json"] = MetaFile(version=2)
    fleet.commit()


def rollback_of_a_channel(fleet: SmallFleet, victim: Victim) -> None:
    """The key of channels was stolen: a new document says an older release."""
    fleet.publish(victim.second)
    assert victim.sync().outcome == "in-use"
    fleet.counters["stable"] = 0
    fleet.publish(victim.first)


def another_pack_under_the_same_counter(fleet: SmallFleet, victim: Victim) -> None:
    fleet.counters["stable"] = 0
    fleet.publish(victim.second)


def rollback_of_the_whole_store(fleet: SmallFleet, victim: Victim) -> None:
    shutil.copytree(fleet.folder, fleet.folder.parent / "backup")
    fleet.publish(victim.second)
    assert victim.sync().outcome == "in-use"
    shutil.rmtree(fleet.folder)
    shutil.move(fleet.folder.parent / "backup", fleet.folder)


def freeze(fleet: SmallFleet, victim: Victim) -> None:
    """New metadata is held back until what there is has expired."""
    fleet.days = -1
    fleet.sign("timestamp")


def freeze_of_the_snapshot(fleet: SmallFleet, victim: Victim) -> None:
    fleet.days = -1
    fleet.sign("snapshot")
    fleet.days = 5
    fleet.roles["timestamp"].signed.snapshot_meta = MetaFile(version=fleet.roles["snapshot"].signed.version)
    fleet.sign("timestamp")


def freeze_of_a_role(fleet: SmallFleet, victim: Victim) -> None:
    fleet.days = -1
    fleet.sign("channels")
    fleet.roles["snapshot"].signed.meta["channels.json"].version = fleet.roles["channels"].signed.version
    fleet.days = 5
    fleet.commit()


def mix_and_match_of_snapshots(fleet: SmallFleet, victim: Victim) -> None:
    """The file of the newest snapshot is another, which was signed too."""
    old = metadata(fleet, f"{fleet.roles['snapshot'].signed.version}.snapshot.json").read_bytes()
    fleet.publish(victim.second)
    metadata(fleet, f"{fleet.roles['snapshot'].signed.version}.snapshot.json").write_bytes(old)


def mix_and_match_of_roles(fleet: SmallFleet, victim: Victim) -> None:
    """Metadata of the channels from one moment, in a snapshot of another."""
    old = metadata(fleet, f"{fleet.roles['channels'].signed.version}.channels.json").read_bytes()
    fleet.publish(victim.second)
    metadata(fleet, f"{fleet.roles['channels'].signed.version}.channels.json").write_bytes(old)


def one_role_in_the_place_of_another(fleet: SmallFleet, victim: Victim) -> None:
    fleet.publish(victim.second)
    data = metadata(fleet, f"{fleet.roles['packs'].signed.version}.packs.json").read_bytes()
    metadata(fleet, f"{fleet.roles['channels'].signed.version}.channels.json").write_bytes(data)


def a_role_left_out_of_the_snapshot(fleet: SmallFleet, victim: Victim) -> None:
    del fleet.roles["snapshot"].signed.meta["channels.json"]
    fleet.commit()


def endless_timestamp(fleet: SmallFleet, victim: Victim) -> None:
    with metadata(fleet, "timestamp.json").open("wb") as file:
        file.truncate(1 << 40)


def endless_root(fleet: SmallFleet, victim: Victim) -> None:
    with metadata(fleet, "2.root.json").open("wb") as file:
        file.truncate(1 << 40)


def endless_role(fleet: SmallFleet, victim: Victim) -> None:
    fleet.publish(victim.second)
    with metadata(fleet, f"{fleet.roles['channels'].signed.version}.channels.json").open("wb") as file:
        file.truncate(1 << 40)


def endless_archive(fleet: SmallFleet, victim: Victim) -> None:
    digest = fleet.publish(victim.second)
    with fleet.object(f"packs/{digest}.pack").open("ab") as file:
        file.truncate(1 << 40)


def archive_said_to_be_endless(fleet: SmallFleet, victim: Victim) -> None:
    """The keys of packs and channels were stolen: signed metadata claims 2 TiB."""
    released = fleet.add_pack(victim.second)
    fleet.roles["packs"].signed.targets[released.archive].length = 2 << 40
    fleet.announce("stable", released)
    fleet.commit("packs", "channels")


def wrong_hash_of_a_document(fleet: SmallFleet, victim: Victim) -> None:
    fleet.publish(victim.second)
    path = fleet.object("channels/stable.json")
    path.write_bytes(path.read_bytes().replace(b'"counter": 2', b'"counter": 9'))


def wrong_hash_of_an_archive(fleet: SmallFleet, victim: Victim) -> None:
    path = fleet.object(f"packs/{fleet.publish(victim.second)}.pack")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def half_written_archive(fleet: SmallFleet, victim: Victim) -> None:
    path = fleet.object(f"packs/{fleet.publish(victim.second)}.pack")
    path.write_bytes(path.read_bytes()[:-1000])


def half_written_metadata(fleet: SmallFleet, victim: Victim) -> None:
    fleet.publish(victim.second)
    path = metadata(fleet, "timestamp.json")
    path.write_bytes(path.read_bytes()[:-20])


def wrong_key(role: str) -> Callable[[SmallFleet, Victim], None]:
    def attack(fleet: SmallFleet, victim: Victim) -> None:
        fleet.keys[role] = signers(1)
        fleet.publish(victim.second)

    return attack


def key_of_another_role(fleet: SmallFleet, victim: Victim) -> None:
    """Who may sign packs may not say what is released."""
    fleet.keys["channels"] = fleet.keys["packs"]
    fleet.publish(victim.second)


def no_signature(fleet: SmallFleet, victim: Victim) -> None:
    fleet.sign("timestamp", by=[])


def changed_after_signing(fleet: SmallFleet, victim: Victim) -> None:
    forge(metadata(fleet, "timestamp.json"), lambda signed: signed.update(version=99))


def threshold_not_met(fleet: SmallFleet, victim: Victim) -> None:
    """One of two root keys was stolen."""
    fleet.next_root([*fleet.keys["root"][:1], *signers(1)], by=fleet.keys["root"][:1])


def threshold_met_by_one_key_twice(fleet: SmallFleet, victim: Victim) -> None:
    fleet.sign("root", by=fleet.keys["root"][:1])
    path = metadata(fleet, "2.root.json")
    data = json.loads(path.read_bytes())
    data["signatures"] *= 2
    path.write_bytes(json.dumps(data).encode())


def lowered_threshold(fleet: SmallFleet, victim: Victim) -> None:
    """The new root asks for one key, and is signed by one of the old keys alone."""
    one = fleet.keys["root"][0]
    fleet.next_root([one], by=[one], threshold=1)


def root_signed_by_strangers(fleet: SmallFleet, victim: Victim) -> None:
    new = signers(2)
    fleet.next_root(new, by=new, threshold=2)


def root_of_another_number(fleet: SmallFleet, victim: Victim) -> None:
    """Root 3 lies where root 2 should."""
    fleet.sign("root")
    fleet.sign("root")
    metadata(fleet, "2.root.json").write_bytes(metadata(fleet, "3.root.json").read_bytes())


def garbage(name: str, data: bytes) -> Callable[[SmallFleet, Victim], None]:
    return lambda fleet, victim: metadata(fleet, name).write_bytes(data) and None


def release_of_another_channel(fleet: SmallFleet, victim: Victim) -> None:
    fleet.announce("stable", fleet.add_pack(victim.second), channel="beta")
    fleet.commit("packs", "channels")


def release_of_a_future_schema(fleet: SmallFleet, victim: Victim) -> None:
    fleet.announce("stable", fleet.add_pack(victim.second), schema_version=2)
    fleet.commit("packs", "channels")


def release_with_an_unknown_field(fleet: SmallFleet, victim: Victim) -> None:
    fleet.announce("stable", fleet.add_pack(victim.second), run="rm -rf /")
    fleet.commit("packs", "channels")


def release_that_is_garbage(fleet: SmallFleet, victim: Victim) -> None:
    fleet.put("channels", "channels/stable.json", b"\x80\x04K\x01.")
    fleet.commit("channels")


def release_that_names_a_path(fleet: SmallFleet, victim: Victim) -> None:
    released = fleet.add_pack(victim.second).model_copy(update={"pack": "../../../outside"})
    fleet.announce("stable", released)
    fleet.commit("packs", "channels")


def delta_from_a_path(fleet: SmallFleet, victim: Victim) -> None:
    released = fleet.add_pack(victim.second).model_copy(update={"deltas": {"../../../outside": 1}})
    fleet.announce("stable", released)
    fleet.commit("packs", "channels")


ATTACKS: dict[str, tuple[Callable[[SmallFleet, Victim], object], type[MmclEdgeError], str]] = {
    "rollback of the timestamp": (rollback_of_timestamp, TrustError, "older"),
    "rollback of the snapshot": (rollback_of_snapshot, TrustError, "older"),
    "rollback of a role": (rollback_of_a_role, TrustError, "older"),
    "rollback of a channel": (rollback_of_a_channel, TrustError, "rolls it back"),
    "rollback of the whole store": (rollback_of_the_whole_store, TrustError, "older"),
    "another pack under the same counter": (another_pack_under_the_same_counter, TrustError, "tampered"),
    "freeze": (freeze, ExpiredError, "holds newer metadata back"),
    "freeze of the snapshot": (freeze_of_the_snapshot, ExpiredError, "snapshot"),
    "freeze of a role": (freeze_of_a_role, ExpiredError, "channels"),
    "mix and match of snapshots": (mix_and_match_of_snapshots, TrustError, "inconsistent"),
    "mix and match of roles": (mix_and_match_of_roles, TrustError, "inconsistent"),
    "one role in the place of another": (one_role_in_the_place_of_another, TrustError, "signed by enough"),
    "a role left out of the snapshot": (a_role_left_out_of_the_snapshot, TrustError, "channels"),
    "endless timestamp": (endless_timestamp, TrustError, "sends more than it should"),
    "endless root": (endless_root, TrustError, "sends more than it should"),
    "endless role": (endless_role, TrustError, "sends more than it should"),
    "endless archive": (endless_archive, TrustError, "sends more than it should"),
    "archive said to be endless": (archive_said_to_be_endless, TrustError, "at most"),
    "wrong hash of a document": (wrong_hash_of_a_document, TrustError, "not the one"),
    "wrong hash of an archive": (wrong_hash_of_an_archive, TrustError, "not the one"),
    "half-written archive": (half_written_archive, TrustError, "not the one"),
    "half-written metadata": (half_written_metadata, TrustError, "no metadata"),
    "wrong key for the timestamp": (wrong_key("timestamp"), TrustError, "signed by enough"),
    "wrong key for the snapshot": (wrong_key("snapshot"), TrustError, "signed by enough"),
    "wrong key for the channels": (wrong_key("channels"), TrustError, "signed by enough"),
    "wrong key for the packs": (wrong_key("packs"), TrustError, "signed by enough"),
    "key of another role": (key_of_another_role, TrustError, "signed by enough"),
    "no signature": (no_signature, TrustError, "signed by enough"),
    "changed after signing": (changed_after_signing, TrustError, "signed by enough"),
    "threshold not met": (threshold_not_met, TrustError, "signed by enough"),
    "threshold met by one key twice": (threshold_met_by_one_key_twice, TrustError, "no metadata|signed by enough"),
    "lowered threshold": (lowered_threshold, TrustError, "signed by enough"),
    "root signed by strangers": (root_signed_by_strangers, TrustError, "signed by enough"),
    "root of another number": (root_of_another_number, TrustError, "older|inconsistent"),
    "garbage for a timestamp": (garbage("timestamp.json", b"\x00\xff garbage"), TrustError, "no metadata"),
    "a web page for a timestamp": (garbage("timestamp.json", b"<html>Log in</html>"), TrustError, "no metadata"),
    "JSON nested too deep": (garbage("timestamp.json", b"[" * 8000), TrustError, "no metadata"),
    "JSON of another kind": (garbage("timestamp.json", b"[]"), TrustError, "no metadata"),
    "an empty timestamp": (garbage("timestamp.json", b""), TrustError, "no metadata"),
    "garbage for a root": (garbage("2.root.json", b"garbage"), TrustError, "no metadata"),
    "release of another channel": (release_of_another_channel, TrustError, "'beta'"),
    "release of a future schema": (release_of_a_future_schema, TrustError, "schema_version"),
    "release with an unknown field": (release_with_an_unknown_field, TrustError, "run"),
    "release that is garbage": (release_that_is_garbage, TrustError, "channels/stable.json"),
    "release that names a path": (release_that_names_a_path, TrustError, "current.pack"),
    "delta from a path": (delta_from_a_path, TrustError, "deltas"),
}


@pytest.mark.parametrize(("attack", "error", "words"), ATTACKS.values(), ids=ATTACKS)
def test_refused_and_nothing_changed(
    fleet: SmallFleet, victim: Victim, tmp_path: Path, attack: Callable[..., object], error: type, words: str
):
    attack(fleet, victim)
    before, outside, links = victim.outside_trust(), set(tmp_path.iterdir()), victim.links()
    for _ in range(2):  # once more, for what the first time left in trust/
        with pytest.raises(error, match=words) as caught:
            victim.sync()
        assert "nothing was changed" in str(caught.value)
        assert (victim.outside_trust(), victim.links()) == (before, links)
    assert set(tmp_path.iterdir()) == outside
    assert not isinstance(caught.value, ExpiredError if error is TrustError else TrustError)


@pytest.mark.parametrize("name", ["timestamp.json", "{snapshot}.snapshot.json", "{channels}.channels.json"])
def test_metadata_that_is_held_back_is_no_fleet(fleet: SmallFleet, victim: Victim, name: str):
    fleet.publish(victim.second)
    metadata(fleet, name.format(**{role: one.signed.version for role, one in fleet.roles.items()})).unlink()
    before = victim.outside_trust()
    with pytest.raises(MissingObjectError, match="a part is missing"):
        victim.sync()
    assert victim.outside_trust() == before


def test_an_archive_that_is_held_back(fleet: SmallFleet, victim: Victim):
    fleet.object(f"packs/{fleet.publish(victim.second)}.pack").unlink()
    before = victim.outside_trust()
    with pytest.raises(StoreError, match="a part is missing"):
        victim.sync()
    assert victim.outside_trust() == before


def test_a_device_that_has_seen_an_attack_goes_on_when_it_is_over(fleet: SmallFleet, victim: Victim):
    restore = put_back(fleet, metadata(fleet, "timestamp.json"))
    garbage("timestamp.json", b"garbage")(fleet, victim)
    with pytest.raises(TrustError):
        victim.sync()
    restore()
    assert victim.sync().outcome == "up-to-date"
    fleet.publish(victim.second)
    assert victim.sync().in_use == victim.second.name


def test_no_name_of_a_target_decides_where_a_file_lands(fleet: SmallFleet, victim: Victim, tmp_path: Path):
    """Signed target paths that climb: the store refuses them before a request, and the client never uses them."""
    from mmcl_edge.fleet.client import FleetClient

    info = TargetFile.from_data("packs/../../../outside", b"x", ["sha256"])
    fleet.roles["targets"].signed.targets[info.path] = info
    fleet.commit("targets")
    client = FleetClient(victim.workspace.trust_path / "fleet", Store.open(fleet.url))
    client.refresh()
    with pytest.raises(StoreError, match="relative path"):
        client.fetch(info.path, tmp_path / "landed", max_bytes=10)
    assert not (tmp_path / "landed").exists()


# ---- histories of keys: what was done to root, one step a letter; then a release, and whether the device follows
# r: new root keys, signed by old and new     t: new key for the timestamp    c: nothing but the next version
# x: new root keys, signed by the new alone   o: signed by the old alone      -: this root is missing
HISTORIES = {
    "no change": ("", True),
    "one change of root keys": ("r", True),
    "five changes of root keys": ("rrrrr", True),
    "timestamp, root, timestamp": ("trt", True),
    "nothing new, five times": ("ccccc", True),
    "back and forth": ("rtrtr", True),
    "signed by the new keys alone": ("x", False),
    "signed by the old keys alone": ("o", False),
    "wrong signer in the middle": ("rrxrr", False),
    "wrong signer at the end": ("rrrrx", False),
    "old signer in the middle": ("rorr", False),
    "old signer, then nothing new": ("oc", False),
    "a root is missing in the middle": ("r-r", False),
    "the first root is missing": ("-r", False),
}


@pytest.mark.parametrize("together", [True, False], ids=["all at once", "one by one"])
@pytest.mark.parametrize(("history", "followed"), HISTORIES.values(), ids=HISTORIES)
def test_histories_of_keys(fleet: SmallFleet, victim: Victim, history: str, followed: bool, together: bool):
    before, stopped = victim.outside_trust(), False
    for step in history:
        old, new = fleet.keys["root"], signers(2)
        if step == "t":
            fleet.rotate("timestamp")
        elif step == "c":
            fleet.sign("root")
        else:
            signed_by = {"r": [*old, *new], "x": new, "o": old, "-": [*old, *new]}[step]
            fleet.next_root(new, by=signed_by, threshold=2)
        fleet.commit()
        if step == "-":
            metadata(fleet, f"{fleet.roles['root'].signed.version}.root.json").unlink()
        if not together and not stopped:
            try:
                assert victim.sync().outcome == "up-to-date"
            except TrustError:
                stopped = True
    if not followed:  # whoever stays at an older root does not know the keys that a newer one names
        fleet.rotate("timestamp")
    fleet.publish(victim.second)
    if followed:
        assert victim.sync().in_use == victim.second.name
    else:
        with pytest.raises(TrustError):
            victim.sync()
        assert victim.outside_trust() == before


def test_a_stolen_timestamp_key_ends_with_its_rotation(fleet: SmallFleet, victim: Victim):
    stolen = fleet.keys["timestamp"]
    fleet.rotate("timestamp")
    fleet.commit()
    assert victim.sync().outcome == "up-to-date"
    fleet.publish(victim.second)
    fleet.sign("timestamp", by=stolen)
    with pytest.raises(TrustError, match="signed by enough"):
        victim.sync()


def test_a_fast_forward_ends_with_the_rotation_of_its_key(fleet: SmallFleet, victim: Victim):
    """A thief of the timestamp key counts to a thousand, so that devices refuse what follows until it is rotated."""
    fleet.roles["timestamp"].signed.version = 1000
    fleet.sign("timestamp")
    assert victim.sync().outcome == "up-to-date"
    fleet.roles["timestamp"].signed.version = 10
    fleet.publish(victim.second)
    with pytest.raises(TrustError):
        victim.sync()
    fleet.rotate("timestamp")
    fleet.commit()
    assert victim.sync().in_use == victim.second.name


def test_a_device_that_was_away_for_five_changes_of_keys_catches_up(fleet: SmallFleet, victim: Victim, tmp_path: Path):
    for _ in range(5):
        fleet.next_root(signers(2), threshold=2)
        for role in ("timestamp", "snapshot", "targets"):
            fleet.rotate(role)
        fleet.commit("targets")
    fleet.publish(victim.second)
    assert victim.sync().in_use == victim.second.name
    late = FleetDevice(tmp_path / "late")
    assert late.join(fleet).in_use == victim.second.name


def test_what_a_device_has_seen_survives_the_loss_of_its_cache(fleet: SmallFleet, victim: Victim):
    """Metadata on the device is gone (say, by a broken card); the release it has seen is not."""
    restore = [put_back(fleet, path) for path in fleet.folder.rglob("*.json")]
    fleet.publish(victim.second)
    assert victim.sync().outcome == "in-use"
    for put in restore:
        put()
    shutil.rmtree(victim.workspace.trust_path / "fleet" / "metadata")
    with pytest.raises(TrustError, match="rolls it back"):
        victim.sync()
    assert victim.links()[0] == victim.second.name
