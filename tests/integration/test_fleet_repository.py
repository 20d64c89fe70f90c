"""The admin's side of a fleet: what it refuses, what a cut leaves, who wins a race, and that devices can follow."""

import json
import shutil
import threading

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Targets

from mmcl_edge.errors import ConflictError, FleetError, PackError, SignatureError, StoreError, TrustError
from mmcl_edge.fleet.client import FleetClient, pin
from mmcl_edge.fleet.layout import (
    MAX_ARCHIVE_BYTES,
    MAX_EARLIER,
    Devices,
    Release,
    Settings,
    archive_target,
    metadata_path,
    parse,
)
from mmcl_edge.fleet.repository import Repository, released
from mmcl_edge.fleet.roles import Ceremony
from mmcl_edge.fleet.rotation import install, missing, propose, sign_root
from mmcl_edge.fleet.signers import HeldSigners
from mmcl_edge.fleet.status import status
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.upkeep import refresh
from mmcl_edge.packs import archive as packs_archive
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.archive import open_archive
from mmcl_edge.packs.keys import KeyStore
from mmcl_edge.packs.signing import sign_pack
from tests.founded import Clock, Cut, CutStore, Keys, founded, new_keys, pack, signed_root
from tests.webstore import files, served


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """What is cut here is processes, not power: nothing needs to reach the disk."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path):
    return Store.open(str(tmp_path / "store"), create=True)


@pytest.fixture
def fleet(store):
    return founded(store)[0]


def again(fleet: Repository, keys: Keys | None = None, store: Store | None = None) -> Repository:
    """The same fleet, as another admin (or another command) has it."""
    signers = fleet.signers if keys is None else HeldSigners(keys)
    return Repository(store or fleet.store, signers, fleet.memory, clock=fleet.clock)


def device(fleet: Repository, folder) -> FleetClient:
    """A new device that joins with the first root."""
    pin(folder, fleet.store.get(metadata_path("root", 1), 1 << 20))
    client = FleetClient(folder, Store.open(fleet.store.url))
    client.refresh()
    return client


def what_devices_see(fleet, folder, channel="stable"):
    """Digest and counter of the channel's release, and that its archive is whole."""
    client = device(fleet, folder)
    if not client.has(f"channels/{channel}.json"):
        return None
    release = client.release(channel)
    file = client.fetch(release.archive, folder / "archive", max_bytes=MAX_ARCHIVE_BYTES)
    open_archive(file, folder / "packs", expected_digest=release.pack)
    return release.pack, release.counter


def test_a_device_gets_what_was_published(fleet, tmp_path):
    one = pack(tmp_path)
    release = fleet.publish(one, "stable")
    assert (release.counter, release.pack, release.version) == (1, one.name, 1)
    assert what_devices_see(fleet, tmp_path / "device") == (one.name, 1)


def test_deltas_start_from_what_devices_have(fleet, tmp_path):
    folders = [pack(tmp_path, version) for version in range(1, 6)]
    for folder in folders:
        release = fleet.publish(folder, "stable")
    assert list(release.deltas) == [folders[3].name, folders[2].name, folders[1].name]
    client = device(fleet, tmp_path / "device")
    delta = client.fetch(release.deltas[folders[2].name], tmp_path / "delta", max_bytes=MAX_ARCHIVE_BYTES)
    assert delta.stat().st_size < 0.9 * release.current.size_bytes
    assert delta.stat().st_size == release.current.deltas[folders[2].name]
    digest = open_archive(delta, tmp_path / "into", parent_of=lambda digest: tmp_path / digest)
    assert digest == folders[4].name


def test_publishing_again_changes_nothing(fleet, tmp_path):
    first = fleet.publish(pack(tmp_path), "stable")
    before = fleet.view().snapshot_version
    assert fleet.publish(pack(tmp_path), "stable") == first
    assert fleet.view().snapshot_version == before


def test_one_pack_touches_one_bin(fleet, tmp_path):
    before = dict(fleet.view().meta)
    fleet.publish(pack(tmp_path), "stable")
    after = fleet.view().meta
    changed = {name for name in after if after[name].version != before[name].version}
    assert changed == {"channels.json", f"{fleet.view().bin_of(archive_target(pack(tmp_path).name))}.json"}


def test_many_packs_are_one_change(fleet, tmp_path):
    folders = [pack(tmp_path, value=float(value)) for value in range(25)]
    before = fleet.view().snapshot_version
    assert fleet.publish_many(folders) == tuple(folder.name for folder in folders)
    assert fleet.view().snapshot_version == before + 1
    assert status(fleet).archives == 25
    assert fleet.view().channels() == ()


def test_promotion_and_withdrawal(fleet, tmp_path):
    one, two = pack(tmp_path, 1), pack(tmp_path, 2)
    fleet.publish(one, "beta")
    fleet.promote()
    fleet.publish(two, "beta")
    assert fleet.promote().pack == two.name
    changed = fleet.withdraw(two.name)
    assert {(release.channel, release.pack, release.counter) for release in changed} == {
        ("beta", one.name, 3),
        ("stable", one.name, 3),
    }
    assert all(release.withdrawn == (two.name,) for release in changed)
    assert what_devices_see(fleet, tmp_path / "device") == (one.name, 3)
    with pytest.raises(FleetError, match="was withdrawn"):
        fleet.publish(two, "stable")
    with pytest.raises(FleetError, match="No channel names"):
        fleet.withdraw(two.name)


def test_a_release_that_is_history_can_be_withdrawn_too(fleet, tmp_path):
    one, two = pack(tmp_path, 1), pack(tmp_path, 2)
    fleet.publish(one, "stable")
    fleet.publish(two, "stable")
    (release,) = fleet.withdraw(one.name)
    assert (release.pack, release.counter, release.earlier, release.withdrawn) == (two.name, 3, (), (one.name,))


def test_what_was_withdrawn_from_one_channel_comes_back_in_none(fleet, tmp_path):
    """Neither the pack itself, nor one that was made from it, nor by promotion; others are published as before."""
    good, bad = pack(tmp_path, 1), pack(tmp_path, 2)
    child = pack(tmp_path, 3, parents=(read_pack(bad).as_parent(),))
    sound = pack(tmp_path, 3, parents=(read_pack(good).as_parent(),))
    for channel in ("beta", "stable"):
        fleet.publish(good, channel)
    fleet.publish(bad, "beta")
    fleet.publish(child, "nightly")
    fleet.withdraw(bad.name, "beta")
    before = fleet.view().snapshot_version
    for channel in ("stable", "beta", "a-new-one"):
        with pytest.raises(FleetError, match="was withdrawn from 'beta'; make another version"):
            fleet.publish(bad, channel)
        with pytest.raises(FleetError, match=f"was made from {bad.name[:16]}..., which was withdrawn from 'beta'"):
            fleet.publish(child, channel)
    with pytest.raises(FleetError, match="was made from"):
        fleet.promote("nightly", "stable")
    assert fleet.view().snapshot_version == before
    assert fleet.publish(sound, "stable").pack == sound.name


def test_the_only_release_stays(fleet, tmp_path):
    one = pack(tmp_path)
    fleet.publish(one, "stable")
    with pytest.raises(FleetError, match="only release"):
        fleet.withdraw(one.name)


def test_history_is_bounded(fleet, tmp_path):
    for version in range(1, MAX_EARLIER + 4):
        release = fleet.publish(pack(tmp_path, version), "nightly")
    assert len(release.earlier) == MAX_EARLIER


def test_what_does_not_fit_is_refused(fleet, tmp_path):
    fleet.publish(pack(tmp_path, 2), "stable")
    before = fleet.view().snapshot_version
    other, old = pack(tmp_path, 2, bundle_digest="b" * 64), pack(tmp_path, 1)
    broken = pack(tmp_path, 3)
    (broken / "README.md").write_bytes(b"changed")
    with pytest.raises(FleetError, match="--new-bundle"):
        fleet.publish(other, "stable")
    with pytest.raises(FleetError, match="--allow-downgrade"):
        fleet.publish(old, "stable")
    with pytest.raises(PackError):
        fleet.publish(broken, "stable")
    for name in ("Stable", "../x", "", "a/b", "x" * 64):
        with pytest.raises(FleetError, match="name of a channel"):
            fleet.publish(old, name)
    with pytest.raises(FleetError, match="no channel 'beta'"):
        fleet.promote()
    assert fleet.view().snapshot_version == before
    assert fleet.publish(other, "stable", new_bundle=True).counter == 2
    assert fleet.publish(old, "stable", new_bundle=True, allow_downgrade=True).counter == 3


def test_a_fleet_can_require_signatures(store, tmp_path):
    fleet, keys = founded(store, require_signatures=True)
    one = pack(tmp_path)
    with pytest.raises(SignatureError):
        fleet.publish(one, "stable")
    sign_pack(one, CryptoSigner.generate_ed25519())
    with pytest.raises(SignatureError):
        fleet.publish_many([one])
    sign_pack(one, keys.release)
    assert fleet.publish(one, "stable").counter == 1


def test_devices_are_enrolled_and_revoked(fleet, tmp_path):
    keys = [KeyStore(tmp_path / str(number)).new("device") for number in range(2)]
    fleet.enroll("kitchen", keys[0])
    assert fleet.enroll("kitchen", keys[0]).enrolled(keys[0].keyid).name == "kitchen"
    for name, key, message in (
        ("kitchen", keys[1], "another key"),
        ("attic", keys[0], "belongs to"),
        ("a b", keys[1], "name"),
    ):
        with pytest.raises(FleetError, match=message):
            fleet.enroll(name, key)
    after = fleet.revoke_device("kitchen")
    assert after.enrolled(keys[0].keyid) is None
    assert after.was_revoked(keys[0].keyid)
    with pytest.raises(FleetError, match="revoked"):
        fleet.enroll("again", keys[0])
    with pytest.raises(FleetError, match="No device"):
        fleet.revoke_device("kitchen")
    seen = device(fleet, tmp_path / "device").read("devices.json", 1 << 20)
    assert parse(Devices, seen, "devices.json") == after


def test_a_second_fleet_is_refused_in_the_same_place(store):
    fleet, keys = founded(store)
    with pytest.raises(FleetError, match="already"):
        founded(store)
    with pytest.raises(FleetError, match="already"):
        founded(store, keys, clock=fleet.clock)


def test_a_store_that_ignores_conditions_takes_no_fleet():
    with served(files(honest=False)) as url, pytest.raises(StoreError, match="conditional"):
        founded(Store.open(url))


def test_without_the_release_key_nothing_is_written(fleet, tmp_path):
    keys = new_keys()
    before = fleet.view().snapshot_version
    stranger = again(fleet, keys)
    with pytest.raises(FleetError, match="key that is not here"):
        stranger.publish(pack(tmp_path), "stable")
    assert fleet.view().snapshot_version == before
    assert not any(path.path.startswith("targets/packs") for path in fleet.store.list("targets"))


@pytest.mark.parametrize(("threshold", "keys"), [(0, 1), (2, 1), (3, 2)])
def test_thresholds_that_make_no_sense(threshold, keys):
    public = tuple(CryptoSigner.generate_ed25519().public_key for _ in range(keys))
    with pytest.raises(FleetError, match="threshold"):
        Ceremony(public, threshold, public, public)


# --- cuts --------------------------------------------------------------------------------------------------------


def _copy(fleet: Repository, place) -> Repository:
    """The fleet as it is now, in a store of its own."""
    shutil.copytree(fleet.store.url, place)
    return again(fleet, store=Store.open(str(place)))


ACTIONS = {
    "publish": lambda fleet, folder: fleet.publish(pack(folder, 3), "stable"),
    "withdraw": lambda fleet, folder: fleet.withdraw(pack(folder, 2).name),
    "refresh": lambda fleet, folder: refresh(fleet, everything=True),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_cut_anywhere_leaves_a_fleet_that_devices_and_admins_can_use(name, tmp_path):
    """Killed before each write, then after each: devices see the old or the new state, and the next command works."""
    fleet, action = founded(Store.open(str(tmp_path / "store"), create=True), bins=2)[0], ACTIONS[name]
    for version in (1, 2):
        fleet.publish(pack(tmp_path, version), "stable")
    old = fleet.view().release("stable").counter
    counting = CutStore(_copy(fleet, tmp_path / "count").store)
    action(again(fleet, store=counting), tmp_path)
    seen = set()
    for where in ("before", "after"):
        for number in range(1, counting.writes + 1):
            place = tmp_path / f"{where}{number}"
            copy = _copy(fleet, place)
            with pytest.raises(Cut):
                action(again(copy, store=CutStore(copy.store, **{where: number})), tmp_path)
            seen.add(what_devices_see(copy, place / "device")[1] - old)
            if name == "withdraw" and copy.view().release("stable").counter > old:
                refresh(copy)
            else:
                action(copy, tmp_path)
            counter = old + (name != "refresh")
            assert what_devices_see(copy, place / "device2")[1] == counter
            assert copy.view().is_complete
            assert copy.publish(pack(tmp_path, 9), "stable").counter == counter + 1
    assert counting.writes >= 4
    assert seen == ({0} if name == "refresh" else {0, 1})


def test_a_cut_while_making_a_fleet_is_mended_by_the_same_call(tmp_path):
    keys, clock, settings = new_keys(), Clock(), Settings(bins=4)

    def make(store):
        clock.forward(seconds=5)
        root = signed_root(keys, clock, settings)
        return Repository.create(store, HeldSigners(keys), root, settings=settings, clock=clock)

    counting = CutStore(Store.open(str(tmp_path / "count"), create=True))
    make(counting)
    for number in range(1, counting.writes + 1):
        store = Store.open(str(tmp_path / str(number)), create=True)
        with pytest.raises(Cut):
            make(CutStore(store, before=number))
        fleet = make(store)
        assert fleet.publish(pack(tmp_path), "stable").counter == 1
        assert what_devices_see(fleet, tmp_path / f"device{number}") == (pack(tmp_path).name, 1)


def test_an_unfinished_fleet_of_someone_else_is_left_alone(tmp_path):
    store = Store.open(str(tmp_path / "store"), create=True)
    with pytest.raises(Cut):
        founded(CutStore(store, after=4))
    assert store.exists(metadata_path("root", 1))
    with pytest.raises(FleetError, match="another root"):
        founded(store)


# --- races -------------------------------------------------------------------------------------------------------


def test_of_two_publishers_at_once_one_is_told(fleet, tmp_path):
    """The second has read the fleet before the first writes: deterministic, whatever the threads do."""
    one, two = pack(tmp_path, 1, value=0.1), pack(tmp_path, 1, value=0.2)
    rival = again(fleet)
    late = again(fleet)
    view = late.view()
    late.view = lambda: view
    rival.publish(one, "stable")
    with pytest.raises(ConflictError, match="Run it again"):
        late.publish(two, "stable")
    assert what_devices_see(fleet, tmp_path / "a") == (one.name, 1)
    del late.view
    assert late.publish(two, "stable").counter == 2
    assert what_devices_see(fleet, tmp_path / "b") == (two.name, 2)


def test_publishers_in_threads_all_come_through_in_the_end(fleet, tmp_path):
    folders = [pack(tmp_path, 1, value=float(value)) for value in range(6)]
    told = []

    def run(folder):
        admin = again(fleet)
        while True:
            try:
                admin.publish(folder, "stable")
            except ConflictError:
                told.append(folder)
            else:
                return

    threads = [threading.Thread(target=run, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    release = fleet.view().release("stable")
    assert release.counter == len(folders)
    assert {release.pack, *(item.pack for item in release.earlier)} == {folder.name for folder in folders}
    assert what_devices_see(fleet, tmp_path / "device") == (release.pack, len(folders))


def test_a_timestamp_never_goes_back_to_an_older_snapshot(fleet, tmp_path):
    """One admin stops between snapshot and timestamp; another goes on; then the first wakes up and signs."""
    slow = again(fleet)
    view = slow.view()
    slow.publish(pack(tmp_path, 1), "stable")
    fleet.publish(pack(tmp_path, 2), "stable")
    newest = fleet.view().timestamp.signed
    slow.commit(view).write_timestamp(MetaFile(view.snapshot_version + 1))
    assert fleet.view().timestamp.signed == newest


# --- trust -------------------------------------------------------------------------------------------------------


def test_an_admin_signs_nothing_on_top_of_forged_metadata(fleet, tmp_path):
    fleet.publish(pack(tmp_path), "stable")
    version = fleet.view().version("channels")
    path = tmp_path / "store" / metadata_path("channels", version)
    forged = Metadata[Targets].from_bytes(path.read_bytes())
    forged.signed.targets.clear()
    forged.sign(CryptoSigner.generate_ed25519())
    path.write_bytes(forged.to_bytes())
    with pytest.raises(TrustError, match="signed by the fleet's keys"):
        again(fleet).publish(pack(tmp_path, 2), "stable")


def test_an_admin_notices_a_store_that_was_set_back(fleet, tmp_path):
    before = fleet.store.get("metadata/timestamp.json", 1 << 20)
    fleet.publish(pack(tmp_path), "stable")
    fleet.store.put("metadata/timestamp.json", before)
    with pytest.raises(TrustError, match="set back"):
        again(fleet).publish(pack(tmp_path, 2), "stable")
    fleet.store.delete("metadata/timestamp.json")
    with pytest.raises(TrustError, match="lost its timestamp"):
        again(fleet).view()


def test_a_changed_document_is_noticed(fleet, tmp_path):
    fleet.publish(pack(tmp_path), "stable")
    (file,) = (tmp_path / "store" / "targets" / "channels").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"counter":1', b'"counter":7'))
    with pytest.raises(TrustError, match="not what was signed"):
        again(fleet).view().release("stable")


# --- keys and time -----------------------------------------------------------------------------------------------


def _changes(keys: Keys, group: str):
    """Every key of ``group`` replaced by a new one."""
    new = [CryptoSigner.generate_ed25519() for _ in (keys.root if group == "root" else [0])]
    return new, {group: ([key.public_key for key in new], len(new))}


@pytest.mark.parametrize("group", ["root", "targets", "online"])
def test_keys_are_rotated_and_the_old_ones_count_no_more(group, store, tmp_path):
    fleet, keys = founded(store)
    fleet.publish(pack(tmp_path, 1), "stable")
    follower = tmp_path / "follower"
    device(fleet, follower)
    new, changes = _changes(keys, group)
    everyone = HeldSigners([*keys, *new])
    admin = Repository(store, everyone, fleet.memory, clock=fleet.clock)
    root = propose(admin.view().root.signed, changes, fleet.clock(), Settings().lifetimes)
    sign_root(root, everyone, previous=admin.view().root.signed)
    install(admin, root)
    install(admin, root)
    assert what_devices_see(admin, tmp_path / "new device") == (pack(tmp_path, 1).name, 1)
    FleetClient(follower, store).refresh()
    kept = [key for key in keys if key not in _of(keys, group)]
    renewed = Repository(store, HeldSigners([*kept, *new]), fleet.memory, clock=fleet.clock)
    assert renewed.publish(pack(tmp_path, 2), "stable").counter == 2
    assert what_devices_see(admin, tmp_path / "newer device") == (pack(tmp_path, 2).name, 2)
    if group != "root":
        with pytest.raises(FleetError, match="key that is not here"):
            again(fleet, keys).publish(pack(tmp_path, 3), "stable")


def _of(keys: Keys, group: str):
    return {"root": keys.root, "targets": [keys.release], "online": [keys.online]}[group]


@pytest.mark.parametrize("group", ["root", "targets", "online"])
def test_a_cut_anywhere_in_a_rotation(group, tmp_path):
    number, finished = 0, False
    while not finished:
        number += 1
        store = Store.open(str(tmp_path / str(number)), create=True)
        fleet, keys = founded(store, bins=2)
        fleet.publish(pack(tmp_path), "stable")
        new, changes = _changes(keys, group)
        everyone = HeldSigners([*keys, *new])
        root = propose(fleet.view().root.signed, changes, fleet.clock(), Settings().lifetimes)
        sign_root(root, everyone, previous=fleet.view().root.signed)
        try:
            install(Repository(CutStore(store, before=number), everyone, fleet.memory, clock=fleet.clock), root)
            finished = True
        except Cut:
            pass
        assert what_devices_see(fleet, tmp_path / f"device{number}") == (pack(tmp_path).name, 1)
        install(Repository(store, everyone, fleet.memory, clock=fleet.clock), root)
        assert what_devices_see(fleet, tmp_path / f"later{number}") == (pack(tmp_path).name, 1)
    assert number >= 2


def test_a_root_is_signed_by_keys_in_several_places(store, tmp_path):
    """Alice signs here, Bob elsewhere; only both together count, for the old root and for the new one."""
    fleet, keys = founded(store)
    carol = CryptoSigner.generate_ed25519()
    alice, bob = keys.root
    changes = {"root": ([alice.public_key, carol.public_key], 2)}
    now = fleet.view().root.signed
    root = propose(now, changes, fleet.clock(), Settings().lifetimes)
    sign_root(root, HeldSigners([alice]), previous=now)
    assert "1 more of the keys before" in missing(root, now)
    with pytest.raises(FleetError, match="lacks signatures"):
        install(fleet, root)
    travelled = Metadata.from_bytes(root.to_bytes())
    sign_root(travelled, HeldSigners([bob]), previous=now)
    assert missing(travelled, now) == f"1 more of the new keys ({carol.public_key.keyid[:16]})"
    sign_root(travelled, HeldSigners([carol]), previous=now)
    install(fleet, travelled)
    assert fleet.view().root.signed.version == 2
    with pytest.raises(FleetError, match="the next is 3"):
        install(fleet, propose(now, changes, fleet.clock(), Settings().lifetimes))


def test_refresh_renews_what_is_due_and_no_more(store, tmp_path):
    clock = Clock()
    fleet, keys = founded(store, clock=clock)
    assert refresh(fleet).renewed == ()
    clock.forward(days=4)
    assert refresh(fleet).renewed == ("snapshot",)
    clock.forward(days=50)
    online = again(fleet, Keys([], keys.online, keys.online))
    assert "targets" in refresh(online).waiting
    assert {"targets", "channels", "devices", "packs", "bins-0", "snapshot"} <= set(refresh(fleet).renewed)
    clock.forward(days=180)
    result = refresh(fleet)
    assert "root" in result.renewed
    assert fleet.view().root.signed.version == 2
    found = status(fleet)
    assert found.expired == ()
    assert found.versions["root"] == 2


def test_expired_metadata_is_renewed_and_shown(store, tmp_path):
    clock = Clock()
    fleet, _ = founded(store, clock=clock)
    clock.forward(days=400)
    assert set(status(fleet).expired) == {
        "root", "targets", "channels", "devices", "packs", "bins", "snapshot", "timestamp"
    }  # fmt: skip
    refresh(fleet)
    assert status(fleet).expired == ()


def test_status_counts_what_is_there(fleet, tmp_path):
    fleet.publish(pack(tmp_path), "beta")
    fleet.store.put("inbox/k/p/upload.json", b"{}")
    fleet.store.put("inbox/k/p/0", b"x" * 10)
    fleet.store.put("inbox/k/q/0", b"x" * 10)
    found = status(fleet)
    assert (found.inbox.uploads, found.inbox.size_bytes, found.archives, found.bins) == (1, 22, 1, 4)
    assert [release.channel for release in found.releases] == ["beta"]
    assert found.keys["root"].threshold == 2
    assert found.complete


def test_released_packs_are_found_by_the_beginning_of_their_digest(fleet, tmp_path):
    one = pack(tmp_path)
    fleet.publish(one, "stable")
    assert released(fleet.view(), one.name[:6]) == one.name
    for prefix in (one.name[:5], "f" * 64):
        with pytest.raises(FleetError, match="six or more letters"):
            released(fleet.view(), prefix)


def test_the_limit_of_archives_is_that_of_packs():
    assert packs_archive.MAX_ARCHIVE_BYTES <= MAX_ARCHIVE_BYTES


def test_documents_of_the_future_are_refused(fleet, tmp_path):
    release = fleet.publish(pack(tmp_path), "stable")
    document = json.loads(release.model_dump_json())
    for change in ({"schema_version": 2}, {"more": 1}, {"counter": 0}, {"withdrawn": [release.pack]}):
        with pytest.raises(Exception, match="update mmcl-edge"):
            parse(Release, json.dumps({**document, **change}).encode(), "it")
