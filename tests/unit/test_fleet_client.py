"""The client of a fleet: what it pins, what it reads, what it calls things that go wrong."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from mmcl_edge.errors import FleetError, MissingObjectError, StoreError, TrustError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.client import FleetClient, first_root, pin
from mmcl_edge.fleet.layout import Settings, parse
from mmcl_edge.fleet.store import Store
from tests.builders import on_full_disk, snapshot
from tests.fleets import FleetDevice, SmallFleet


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    return SmallFleet(tmp_path / "fleet")


@pytest.fixture
def client(tmp_path: Path, fleet: SmallFleet) -> FleetClient:
    """A client that trusts the fleet's first root."""
    pin(tmp_path / "trust", fleet.root)
    return FleetClient(tmp_path / "trust", Store.open(fleet.url))


def test_a_pinned_root_is_kept_for_the_owner_alone_and_named_by_its_hash(tmp_path: Path, fleet: SmallFleet):
    assert not FleetClient(tmp_path / "trust", Store.open(fleet.url)).pinned
    assert pin(tmp_path / "trust", fleet.root) == sha256_bytes(fleet.root)
    assert (tmp_path / "trust" / "root.json").stat().st_mode & 0o777 == 0o600
    assert FleetClient(tmp_path / "trust", Store.open(fleet.url)).pinned


NO_ROOTS = {
    "empty": lambda fleet: b"",
    "garbage": lambda fleet: b"\x00garbage",
    "a list": lambda fleet: b"[]",
    "other metadata": lambda fleet: (fleet.folder / "metadata" / "timestamp.json").read_bytes(),
    "changed": lambda fleet: fleet.root.replace(b'"version": 1', b'"version": 2').replace(
        b'"version":1', b'"version":2'
    ),
    "unsigned": lambda fleet: fleet.sign("root", by=[]),
}


@pytest.mark.parametrize("root", NO_ROOTS.values(), ids=NO_ROOTS)
def test_what_is_no_root_is_not_pinned(tmp_path: Path, fleet: SmallFleet, root):
    with pytest.raises(TrustError, match="root metadata"):
        pin(tmp_path / "trust", root(fleet))
    assert not (tmp_path / "trust").exists()


def test_first_root_by_fingerprint_by_use_and_where_there_is_none(tmp_path: Path, fleet: SmallFleet):
    store = Store.open(fleet.url)
    assert first_root(store) == fleet.root
    second = fleet.sign("root")
    assert first_root(store, fingerprint=sha256_bytes(second)) == second
    with pytest.raises(TrustError, match="None of the 3"):
        first_root(store, fingerprint="0" * 64)
    with pytest.raises(MissingObjectError, match="check the address"):
        first_root(Store.open(str(tmp_path / "nothing"), create=True))


def test_a_refreshed_client_reads_verified_documents(client: FleetClient, fleet: SmallFleet, tmp_path: Path):
    device = FleetDevice(tmp_path / "device")
    digest = fleet.publish(device.pack())
    release = client.release("stable")
    assert (release.pack, release.counter) == (digest, 1)
    assert parse(Settings, client.read("settings.json", 1 << 16), "settings").bins == 256
    assert client.has(release.archive)
    assert not client.has("packs/none.pack")
    landed = client.fetch(release.archive, tmp_path / "landed", max_bytes=1 << 20)
    assert landed.stat().st_size == release.current.size_bytes


def test_the_end_of_the_timestamp_is_known(client: FleetClient, fleet: SmallFleet):
    assert client.expires() is None
    client.refresh()
    assert client.expires() == fleet.roles["timestamp"].signed.expires.replace(tzinfo=timezone.utc)
    assert client.expires() > datetime.now(timezone.utc)


def test_what_the_fleet_does_not_have(client: FleetClient, tmp_path: Path):
    with pytest.raises(MissingObjectError, match="fleet status"):
        client.release("nightly")
    with pytest.raises(FleetError, match="name of a channel"):
        client.release("../stable")
    with pytest.raises(MissingObjectError):
        client.fetch("packs/none.pack", tmp_path / "landed", max_bytes=10)
    assert not (tmp_path / "landed").exists()


def test_a_target_larger_than_the_caller_takes_is_not_fetched(client: FleetClient):
    with pytest.raises(TrustError, match="at most 3 are accepted"):
        client.read("settings.json", 3)


def test_a_store_that_is_gone_is_neither_an_attack_nor_expiry(client: FleetClient, fleet: SmallFleet):
    client.store.sleep = lambda seconds: None
    fleet.folder.rename(fleet.folder.parent / "away")
    with pytest.raises(StoreError) as caught:
        client.refresh()
    assert not isinstance(caught.value, TrustError)


def test_a_full_disk_at_every_write_of_a_refresh(client: FleetClient, fleet: SmallFleet):
    for refused in on_full_disk(lambda: FleetClient(client.folder, client.store).refresh()):
        assert refused is None or "no space is left" in str(refused)
        FleetClient(client.folder, client.store).refresh()


def test_what_a_cut_left_of_metadata_is_swept(client: FleetClient):
    client.refresh()
    (client.folder / "metadata" / "tmp1234").write_bytes(b"half")
    before = {name for name in snapshot(client.folder) if "tmp" not in name}
    FleetClient(client.folder, client.store).refresh()
    assert set(snapshot(client.folder)) == before


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "root.json", "root_history"])
def test_damage_to_kept_metadata_is_mended_by_the_next_refresh(client: FleetClient, name: str):
    """As a power cut without flushing leaves it: empty, or gone. The pinned root decides."""
    client.refresh()
    path = client.folder / "metadata" / name
    if name == "root_history":
        (path / "1.root.json").write_bytes(b"")
    elif path.is_symlink():
        path.unlink()
    else:
        path.write_bytes(b"")
    FleetClient(client.folder, client.store).refresh()
