"""Push and collect: signed, resumable, and nothing of the training data leaves unless it is asked for."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from securesystemslib.signer import CryptoSigner

from mmcl_edge.errors import InputError, StoreError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.inbox import Finding, collect, list_inbox, read_ledger, remove
from mmcl_edge.fleet.layout import Device, Devices
from mmcl_edge.fleet.push import PushReport, push
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.throttle import TokenBucket
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.keys import KeyStore, device_keys_folder
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.types import Sample
from tests.builders import OTHER_BUNDLE, snapshot
from tests.fleets import FleetDevice, SmallFleet

SMALL = 4096


class Pushing(FleetDevice):
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


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    return SmallFleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path, fleet: SmallFleet) -> Pushing:
    return Pushing(tmp_path / "porch", fleet)


@pytest.fixture
def out(tmp_path: Path, device: Pushing) -> Path:
    """Where uploads are collected; the release that deltas start from is there."""
    from mmcl_edge.runtime.install import bring_pack

    bring_pack(read_pack(device.base), tmp_path / "out" / device.base.name)
    return tmp_path / "out"


def collected(device: Pushing, out: Path, **changes: object) -> tuple[Finding, ...]:
    devices = changes.pop("devices", Devices(devices=(device.enrolled(),)))
    return collect(Store.open(device.fleet.url), devices, out, **changes)


def inbox(fleet: SmallFleet) -> dict[str, bytes]:
    root = fleet.folder / "inbox"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_pushed_pack_is_collected_once(device: Pushing, out: Path):
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


def test_the_archive_is_a_delta_from_the_release_when_that_is_smaller(device: Pushing):
    device.learn(3.0)
    small = device.push()
    assert small.delta_from == device.base.name
    device.workspace.install_pack(stranger := device.pack(9.0))
    assert device.push(pack=stranger.name).delta_from is None
    assert small.size_bytes < device.push(pack=stranger.name).size_bytes


def test_a_delta_whose_parent_is_not_at_hand_is_refused_and_later_taken(device: Pushing, tmp_path: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, tmp_path / "empty")
    assert finding.status == "refused"
    assert "not here" in finding.reason
    (finding,) = collected(device, tmp_path / "empty", parent_of=lambda digest: device.made / digest)
    assert finding.status == "new"


def test_pushing_again_changes_nothing(device: Pushing):
    device.learn(3.0)
    device.push()
    before, state = inbox(device.fleet), snapshot(device.workspace.root)
    report = device.push()
    assert (report.repeated, report.sent_bytes) == (True, 0)
    assert inbox(device.fleet) == before
    assert snapshot(device.workspace.root) == state


class _Cut(BaseException):
    """Ends a push in the middle, as far as a test can."""


@pytest.mark.parametrize("after", range(1, 6))
def test_a_push_that_was_cut_goes_on_with_the_missing_pieces(device: Pushing, out: Path, after: int):
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


def test_a_half_written_piece_is_written_anew(device: Pushing, out: Path):
    device.workspace.install_pack(pack := device.pack(9.0))
    with pytest.raises(_Cut):
        device.push(pack=pack.name, on_progress=lambda done, total: (_ for _ in ()).throw(_Cut()))
    (name,) = inbox(device.fleet)
    (device.fleet.folder / "inbox" / name).write_bytes(b"half")
    device.push(pack=pack.name)
    assert collected(device, out)[0].status == "new"


def test_a_damaged_piece_is_named_and_push_again_mends_it(device: Pushing, out: Path):
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


def test_several_uploads_of_one_device_are_collected_whatever_their_order(device: Pushing, out: Path):
    first, second = device.learn(3.0), device.learn(4.0)
    device.push(pack=first.name)
    device.push(pack=second.name)
    assert [finding.status for finding in collected(device, out)] == ["new", "new"]
    assert set(read_ledger(out).devices) == {device.key.keyid}


def test_a_half_sent_upload_that_another_overtook_gets_a_new_number(device: Pushing, out: Path):
    first, second = device.learn(3.0), device.learn(4.0)

    def cut(done: int, total: int) -> None:
        raise _Cut

    with pytest.raises(_Cut):
        device.push(pack=first.name, on_progress=cut)
    device.push(pack=second.name)
    assert sorted(finding.status for finding in collected(device, out)) == ["half-uploaded", "new"]
    device.push(pack=first.name)
    assert sorted(finding.status for finding in collected(device, out)) == ["collected", "new"]


def test_nothing_of_the_training_data_leaves_unless_it_is_asked_for(device: Pushing, out: Path):
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


def test_push_takes_its_time_under_a_cap(device: Pushing):
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    device.workspace.install_pack(pack := device.pack(9.0))
    bucket = TokenBucket(8000.0, burst_bytes=SMALL, clock=lambda: now[0], sleep=sleep)
    size = device.push(pack=pack.name, bucket=bucket).size_bytes
    assert sum(slept) == pytest.approx((size - SMALL) / 8000.0)


def test_the_workspace_is_free_while_bytes_are_sent(device: Pushing):
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


def test_a_device_that_has_not_joined_needs_an_address(tmp_path: Path, device: Pushing):
    lonely = FleetDevice(tmp_path / "lonely")
    lonely.workspace.install_pack(pack := lonely.pack())
    lonely.workspace.use_pack(pack.name)
    with pytest.raises(InputError, match="--to"):
        push(lonely.workspace, device.signer)
    assert push(lonely.workspace, device.signer, url=device.fleet.url).pack == pack.name


def test_a_store_that_can_only_be_read_is_a_sentence(device: Pushing, monkeypatch: pytest.MonkeyPatch):
    def refuse(store: Store, path: str, data: bytes) -> bool:
        raise StoreError("it can only be read")

    monkeypatch.setattr(Store, "create", refuse)
    device.learn(3.0)
    with pytest.raises(StoreError, match="only be read"):
        device.push()


def test_the_inbox_may_be_empty(device: Pushing, out: Path):
    assert collected(device, out) == ()
    assert list_inbox(Store.open(device.fleet.url)).entries == ()


def test_packs_for_another_bundle_are_left_out(device: Pushing, out: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, out, bundle=OTHER_BUNDLE)
    assert (finding.status, "made for the bundle" in finding.reason) == ("refused", True)
    assert collected(device, out, bundle=device.workspace.bundle_family())[0].status == "new"


def test_collected_uploads_can_be_removed(device: Pushing, out: Path):
    device.learn(3.0)
    device.push()
    (finding,) = collected(device, out)
    assert remove(Store.open(device.fleet.url), finding) >= 2
    assert collected(device, out) == ()
    assert not device.push().repeated
    assert collected(device, out)[0].status == "collected"


def test_many_at_once_give_the_same_as_one_by_one(device: Pushing, tmp_path: Path):
    for value in range(1, 6):
        device.learn(float(value))
        device.push()
    one, many = tmp_path / "one", tmp_path / "many"
    expected = collected(device, one, parent_of=lambda digest: device.made / digest)
    with ThreadPoolExecutor(4) as executor:
        found = collected(device, many, parent_of=lambda digest: device.made / digest, executor=executor)
    assert found == expected
    assert snapshot(one) == snapshot(many)
