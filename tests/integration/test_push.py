"""Push and collect: signed, resumable, and nothing of the training data leaves unless it is asked for."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.errors import InputError, StorageError, StoreError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.inbox import list_inbox, read_ledger, remove
from mmcl_edge.fleet.push import push
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.throttle import TokenBucket
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.replay_store import HeldPair, ReplayStore
from mmcl_edge.types import Sample
from tests.builders import OTHER_BUNDLE, on_full_disk, snapshot
from tests.fleets import FleetDevice, SmallFleet
from tests.pushing import SMALL, PushingDevice, collected, inbox


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    return SmallFleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path, fleet: SmallFleet) -> PushingDevice:
    return PushingDevice(tmp_path / "porch", fleet)


@pytest.fixture
def out(tmp_path: Path, device: PushingDevice) -> Path:
    """Where uploads are collected; the release that deltas start from is there."""
    from mmcl_edge.runtime.install import bring_pack

    bring_pack(read_pack(device.base), tmp_path / "out" / device.base.name)
    return tmp_path / "out"


def test_a_pushed_pack_is_collected_once(device: PushingDevice, out: Path):
    pack = device.learn(3.0)
    report = device.push()
    assert (report.pack, report.keyid, report.repeated) == (pack.name, device.key.keyid, False)
    (finding,) = collected(device, out)
    assert (finding.status, finding.device, finding.version) == ("new", "porch", 2)
    assert finding.labels == ("dog", "cät")
    assert read_pack(out / pack.name).digest == pack.name
    before = snapshot(out)
    (finding,) = collected(device, out)
    assert (finding.status, snapshot(out)) == ("collected", before)


def test_the_archive_is_a_delta_from_the_release_when_that_is_smaller(device: PushingDevice):
    device.learn(3.0)
    small = device.push()
    assert small.delta_from == device.base.name
    device.workspace.install_pack(stranger := device.pack(9.0))
    assert device.push(pack=stranger.name).delta_from is None
    assert small.size_bytes < device.push(pack=stranger.name).size_bytes


def test_a_delta_whose_parent_is_not_at_hand_is_refused_and_later_taken(device: PushingDevice, tmp_path: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, tmp_path / "empty")
    assert finding.status == "refused"
    assert "not here" in finding.reason
    (finding,) = collected(device, tmp_path / "empty", parent_of=lambda digest: device.made / digest)
    assert finding.status == "new"


def test_pushing_again_changes_nothing(device: PushingDevice):
    device.learn(3.0)
    device.push()
    before, state = inbox(device.fleet), snapshot(device.workspace.root)
    report = device.push()
    assert (report.repeated, report.sent_bytes) == (True, 0)
    assert inbox(device.fleet) == before
    assert snapshot(device.workspace.root) == state


def test_an_upload_that_others_followed_is_no_replay_when_it_is_pushed_again(device: PushingDevice, out: Path):
    device.learn(3.0)
    device.push()
    device.push(share_exemplars=True)
    assert collected(device, out)[0].exemplars == 1
    assert not device.push().repeated
    (finding,) = collected(device, out)
    assert (finding.status, finding.reason) == ("new", None)
    assert device.push().repeated


def test_a_pack_that_another_followed_is_no_replay_when_it_is_pushed_again(device: PushingDevice, out: Path):
    first, second = device.learn(3.0), device.learn(4.0)
    for pack in (first, second, first):
        device.push(pack=pack.name)
    collected(device, out)
    for pack in (second, first):
        device.push(pack=pack.name)
    assert {finding.reason for finding in collected(device, out)} == {None}


class _Cut(BaseException):
    """Ends a push in the middle, as far as a test can."""


@pytest.mark.parametrize("after", range(1, 6))
def test_a_push_that_was_cut_goes_on_with_the_missing_pieces(device: PushingDevice, out: Path, after: int):
    pack = device.pack(9.0)
    device.workspace.install_pack(pack)

    def cut(done: int, total: int) -> None:
        if done >= min(after * SMALL, total):
            raise _Cut

    with pytest.raises(_Cut):
        device.push(pack=pack.name, on_progress=cut)
    there = inbox(device.fleet)
    assert not any(name.endswith("upload.json") for name in there)
    (finding,) = collected(device, out)
    assert finding.status == "half-uploaded"
    report = device.push(pack=pack.name)
    assert report.sent_bytes == report.size_bytes - sum(map(len, there.values()))
    assert there.items() <= inbox(device.fleet).items()
    (finding,) = collected(device, out)
    assert finding.status == "new"


def test_a_half_written_piece_is_written_anew(device: PushingDevice, out: Path):
    device.workspace.install_pack(pack := device.pack(9.0))
    with pytest.raises(_Cut):
        device.push(pack=pack.name, on_progress=lambda done, total: (_ for _ in ()).throw(_Cut()))
    (name,) = inbox(device.fleet)
    (device.fleet.folder / "inbox" / name).write_bytes(b"half")
    device.push(pack=pack.name)
    assert collected(device, out)[0].status == "new"


def test_a_damaged_piece_is_named_and_push_again_mends_it(device: PushingDevice, out: Path):
    device.learn(3.0)
    device.push()
    name = next(name for name in inbox(device.fleet) if not name.endswith(".json"))
    path = device.fleet.folder / "inbox" / name
    path.write_bytes(b"x" * len(path.read_bytes()))
    (finding,) = collected(device, out)
    assert "push again" in finding.reason
    assert device.push().repeated
    assert not device.push(again=True).repeated
    assert collected(device, out)[0].status == "new"


def test_several_uploads_of_one_device_are_collected_whatever_their_order(device: PushingDevice, out: Path):
    first, second = device.learn(3.0), device.learn(4.0)
    device.push(pack=first.name)
    device.push(pack=second.name)
    assert [finding.status for finding in collected(device, out)] == ["new", "new"]
    assert set(read_ledger(out).devices) == {device.key.keyid}


def test_a_half_sent_upload_that_another_overtook_gets_a_new_number(device: PushingDevice, out: Path):
    first, second = device.learn(3.0), device.learn(4.0)

    def cut(done: int, total: int) -> None:
        raise _Cut

    with pytest.raises(_Cut):
        device.push(pack=first.name, on_progress=cut)
    device.push(pack=second.name)
    assert sorted(finding.status for finding in collected(device, out)) == ["half-uploaded", "new"]
    device.push(pack=first.name)
    assert sorted(finding.status for finding in collected(device, out)) == ["collected", "new"]


def test_held_out_pairs_never_leave(device: PushingDevice):
    pack = device.learn(3.0)
    store = ReplayStore(device.workspace.replay_path)
    picture = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    told = HeldPair(Sample(None, picture, source="garden.png"), "image", "text", ("a secret garden",))
    store.write(pack.name, replace(store.read(pack.name), pairs=(told,)))
    for share in (False, True):
        assert device.push(share_exemplars=share, again=True).exemplars == int(share)
        everything = b"".join(inbox(device.fleet).values())
        secrets = (b"secret garden", b"garden.png", picture.tobytes()[:64])
        assert not [secret for secret in secrets if secret in everything]
    assert len(store.read(pack.name).pairs) == 1


def test_nothing_of_the_training_data_leaves_unless_it_is_asked_for(device: PushingDevice, out: Path):
    pack = device.learn(3.0)
    device.push()
    ((_, _, path),) = ReplayStore(device.workspace.replay_path).objects_of(pack.name)
    secret = path.read_bytes()
    (file,) = ReplayStore(device.workspace.replay_path).read(pack.name).train
    windows = {secret[start : start + 24] for start in range(0, len(secret) - 24, 24)}
    raw = [file.frames.tobytes(), file.audio.tobytes()]
    windows |= {data[start : start + 24] for data in raw for start in range(0, len(data) - 24, 24)}
    windows |= {b"holiday-of-1999", path.stem.encode()}
    everything = b"".join(p.read_bytes() for p in sorted(device.fleet.folder.rglob("*")) if p.is_file())
    assert [window for window in windows if window in everything] == []
    assert device.push(share_exemplars=True).exemplars == 1
    everything = b"".join(inbox(device.fleet).values())
    assert sum(window in everything for window in windows) > len(windows) // 4, "the scan would find it"
    assert b"holiday-of-1999" not in everything
    (finding,) = collected(device, out)
    assert (finding.status, finding.exemplars) == ("new", 1)
    index = json.loads((out / "exemplars" / pack.name / "index.json").read_bytes())
    assert index["exemplars"] == [{"label": "dog", "object": sha256_bytes(secret), "side": "train"}]
    assert (out / "exemplars" / pack.name / path.name).read_bytes() == secret


def test_bandwidth_is_capped_by_a_token_bucket():
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    bucket = TokenBucket(1000.0, burst_bytes=500, clock=lambda: now[0], sleep=sleep)
    for _ in range(10):
        bucket.take(500)
    assert now[0] == pytest.approx((10 * 500 - 500) / 1000)
    now[0] += 100.0
    bucket.take(500)
    bucket.take(500)
    assert sum(slept) == pytest.approx(4.5 + 0.5), "a pause saves up one burst and no more"
    TokenBucket(None, sleep=sleep).take(1 << 40)


def test_push_takes_its_time_under_a_cap(device: PushingDevice):
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    device.workspace.install_pack(pack := device.pack(9.0))
    bucket = TokenBucket(8000.0, burst_bytes=SMALL, clock=lambda: now[0], sleep=sleep)
    size = device.push(pack=pack.name, bucket=bucket).size_bytes
    assert sum(slept) == pytest.approx((size - SMALL) / 8000.0)


def test_the_workspace_is_free_while_bytes_are_sent(device: PushingDevice):
    device.learn(3.0)
    taken = []

    def take() -> None:
        with device.workspace.lock():
            taken.append(True)

    def elsewhere(done: int, total: int) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(take).result()

    device.push(on_progress=elsewhere)
    assert taken


def test_a_device_that_has_not_joined_needs_an_address(tmp_path: Path, device: PushingDevice):
    lonely = FleetDevice(tmp_path / "lonely")
    lonely.workspace.install_pack(pack := lonely.pack())
    lonely.workspace.use_pack(pack.name)
    with pytest.raises(InputError, match="--to"):
        push(lonely.workspace, device.signer)
    assert push(lonely.workspace, device.signer, url=device.fleet.url).pack == pack.name


def test_a_store_that_can_only_be_read_is_a_sentence(device: PushingDevice, monkeypatch: pytest.MonkeyPatch):
    def refuse(store: Store, path: str, data: bytes) -> bool:
        raise StoreError("it can only be read")

    monkeypatch.setattr(Store, "create", refuse)
    device.learn(3.0)
    with pytest.raises(StoreError, match="only be read"):
        device.push()


def test_the_inbox_may_be_empty(device: PushingDevice, out: Path):
    assert collected(device, out) == ()
    assert list_inbox(Store.open(device.fleet.url)).entries == ()


def test_packs_for_another_bundle_are_left_out(device: PushingDevice, out: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, out, bundle=OTHER_BUNDLE)
    assert (finding.status, "made for the bundle" in finding.reason) == ("refused", True)
    family = device.workspace.bundle_family()
    assert collected(device, out, bundle=family[:6])[0].status == "new"
    assert collected(device, out, bundle=family)[0].status == "collected"


@pytest.mark.parametrize("bundle", ["", "abcde", "ABCDEF", "abcdeg", "a" * 65, "abcdef\n", "../abcdef"])
def test_what_is_no_beginning_of_a_digest_is_refused(device: PushingDevice, tmp_path: Path, bundle: str):
    with pytest.raises(InputError, match="beginning of its digest"):
        collected(device, tmp_path / "collected", bundle=bundle)
    assert not (tmp_path / "collected").exists()


def test_collected_uploads_can_be_removed(device: PushingDevice, out: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, out)
    assert remove(Store.open(device.fleet.url), finding) >= 2
    assert collected(device, out) == ()
    assert not device.push().repeated
    assert collected(device, out)[0].status == "collected"


def test_what_a_device_describes_anew_after_it_was_verified_is_not_removed(device: PushingDevice, out: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, out)
    device.push(share_exemplars=True)
    there = inbox(device.fleet)
    assert remove(Store.open(device.fleet.url), finding) == 0
    assert inbox(device.fleet) == there
    (finding,) = collected(device, out)
    assert (finding.status, finding.exemplars) == ("new", 1)


def test_objects_that_were_not_listed_when_it_was_verified_are_not_removed(device: PushingDevice, out: Path):
    pack = device.learn(3.0)
    device.push()
    (finding,) = collected(device, out)
    late = f"{device.key.keyid}/{pack.name}/{'a' * 32}.00000"
    (device.fleet.folder / "inbox" / late).write_bytes(b"the next upload has begun")
    assert remove(Store.open(device.fleet.url), finding) == len(finding.files) >= 2
    assert set(inbox(device.fleet)) == {late}


def test_many_at_once_give_the_same_as_one_by_one(device: PushingDevice, tmp_path: Path):
    for value in range(1, 6):
        device.learn(float(value))
        device.push()
    one, many = tmp_path / "one", tmp_path / "many"
    expected = collected(device, one, parent_of=lambda digest: device.made / digest)
    with ThreadPoolExecutor(4) as executor:
        found = collected(device, many, parent_of=lambda digest: device.made / digest, executor=executor)
    assert found == expected
    assert snapshot(one) == snapshot(many)


def test_a_web_server_that_can_only_be_read_is_told(device: PushingDevice):
    from tests.webstore import plain, served

    device.learn(3.0)
    with served(plain(device.fleet.folder)) as url, pytest.raises(StoreError, match="only be read"):
        device.push(url=url)


def test_a_full_disk_at_every_write_of_a_push_changes_no_pack_and_the_next_push_goes_on(
    device: PushingDevice, out: Path
):
    device.learn(3.0)
    links, packs = device.links(), snapshot(device.workspace.packs_path)

    def push_or_refuse() -> None:
        try:
            device.push()
        except StoreError as error:  # the disk that is full may be the store's
            raise StorageError(str(error)) from error

    with device.workspace.lock():
        refusals = list(on_full_disk(push_or_refuse))
    assert len(refusals) > 5
    assert all("no space is left" in str(refused) for refused in refusals[:-1])
    assert (device.links(), snapshot(device.workspace.packs_path)) == (links, packs)
    assert device.push().repeated
    assert collected(device, out)[0].status == "new"


def test_a_full_disk_at_every_write_of_a_collection_is_a_sentence_and_the_next_one_goes_on(
    device: PushingDevice, out: Path
):
    pack = device.learn(3.0)
    device.push(share_exemplars=True)
    for refused in on_full_disk(lambda: collected(device, out)):
        assert refused is None or "no space is left" in str(refused)
        if (out / pack.name).exists():
            read_pack(out / pack.name, expected_digest=pack.name)
    assert collected(device, out)[0].status == "collected"
    assert read_pack(out / pack.name).digest == pack.name
