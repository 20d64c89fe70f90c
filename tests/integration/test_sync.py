"""Sync on a device: joining, following, trials, going back, staying offline. Packs are examined by a rule here."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmcl_edge.errors import (
    ExpiredError,
    InputError,
    LockedError,
    MissingObjectError,
    PackError,
    StoreError,
    TrustError,
)
from mmcl_edge.fleet import joining
from mmcl_edge.fleet import sync as sync_module
from mmcl_edge.fleet.client import FleetClient
from mmcl_edge.fleet.health import Examination
from mmcl_edge.fleet.joining import Invitation
from mmcl_edge.fleet.store import Store
from mmcl_edge.fleet.sync import SyncRequest, sync
from mmcl_edge.fleet.sync_state import DeviceState, StateRecord
from mmcl_edge.fleet.trials import Trials, mark_good
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Sample
from tests.builders import OTHER_BUNDLE, on_full_disk, snapshot, write_bundle
from tests.fleets import FleetDevice, SmallFleet, fingerprint

BAD = Examination(0, 10, frozenset())


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    return SmallFleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path) -> FleetDevice:
    return FleetDevice(tmp_path)


@pytest.fixture
def joined(device: FleetDevice, fleet: SmallFleet) -> FleetDevice:
    """A device that uses the fleet's first release."""
    fleet.publish(device.pack())
    assert device.join(fleet).outcome == "in-use"
    return device


def test_the_first_sync_joins_and_later_ones_need_nothing(device: FleetDevice, fleet: SmallFleet):
    first, second = device.pack(), device.pack(1.0)
    fleet.publish(first)
    report = device.join(fleet)
    assert (report.outcome, report.in_use, report.before) == ("in-use", first.name, None)
    assert report.joined == fingerprint(fleet)
    assert device.sync().outcome == "up-to-date"
    fleet.publish(second, parents=[first])
    report = device.sync()
    assert (report.outcome, report.in_use, report.delta_from) == ("in-use", second.name, first.name)
    assert report.joined is None
    assert device.links() == (second.name, first.name)
    assert device.workspace.trial.read() is None


WAYS = {
    "root": lambda fleet: {"root": fleet.root},
    "fingerprint": lambda fleet: {"root": None, "fingerprint": fingerprint(fleet)},
    "first use": lambda fleet: {"root": None, "trust_first_use": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_ways_to_join(device: FleetDevice, fleet: SmallFleet, way):
    fleet.publish(device.pack())
    assert device.join(fleet, **way(fleet)).joined == fingerprint(fleet)


NO_WAYS = {
    "nothing": {},
    "no url": {"trust_first_use": True},
    "no trust": {"url": "somewhere"},
    "two kinds of trust": {"url": "somewhere", "trust_first_use": True, "fingerprint": "a" * 64},
}


@pytest.mark.parametrize("invitation", NO_WAYS.values(), ids=NO_WAYS)
def test_joining_says_what_it_needs(device: FleetDevice, invitation):
    before = snapshot(device.workspace.root)
    with pytest.raises(InputError, match="--trust-first-use"):
        device.sync(invitation=Invitation(**invitation))
    assert snapshot(device.workspace.root) == before


def test_a_fingerprint_may_be_of_a_later_root(device: FleetDevice, fleet: SmallFleet):
    fleet.publish(device.pack())
    fleet.rotate("timestamp")
    fleet.commit()
    newer = (fleet.folder / "metadata" / "2.root.json").read_bytes()
    from mmcl_edge.fileio import sha256_bytes

    assert device.join(fleet, root=None, fingerprint=sha256_bytes(newer)).joined == sha256_bytes(newer)


def test_a_wrong_fingerprint_joins_nothing(device: FleetDevice, fleet: SmallFleet):
    fleet.publish(device.pack())
    before = snapshot(device.workspace.root)
    with pytest.raises(TrustError, match="fingerprint"):
        device.join(fleet, root=None, fingerprint="0" * 64)
    assert snapshot(device.workspace.root) == before


def test_joining_another_fleet_needs_consent(joined: FleetDevice, tmp_path: Path):
    other = SmallFleet(tmp_path / "other")
    other.publish(joined.pack(5.0))
    before = snapshot(joined.workspace.root)
    with pytest.raises(InputError, match="--rejoin"):
        joined.join(other)
    assert snapshot(joined.workspace.root) == before
    with pytest.raises(TrustError):
        joined.sync(invitation=Invitation(url=other.url))
    assert joined.join(other, rejoin=True).outcome == "in-use"
    assert joined.sync().outcome == "up-to-date"


def test_a_device_that_cannot_join_another_fleet_stays_in_its_own(joined: FleetDevice, tmp_path: Path):
    other = SmallFleet(tmp_path / "other")
    before = snapshot(joined.workspace.root)
    garbage = {"root": b"garbage"}
    for invitation, error in ((garbage, TrustError), ({"root": None, "fingerprint": "0" * 64}, TrustError)):
        with pytest.raises(error):
            joined.join(other, rejoin=True, **invitation)
        assert snapshot(joined.workspace.root) == before
    (other.folder / "metadata" / "timestamp.json").write_bytes(b"garbage")
    with pytest.raises(TrustError):
        joined.join(other, rejoin=True)
    assert snapshot(joined.workspace.root) == before
    assert joined.sync().outcome == "up-to-date"


def test_a_cut_anywhere_in_joining_another_fleet_leaves_one_of_the_two(joined: FleetDevice, tmp_path, monkeypatch):
    """Copies of the workspace at every step are what SIGKILL would leave there: each opens, knows a fleet, syncs."""
    other = SmallFleet(tmp_path / "other")
    other.publish(joined.pack(5.0))
    record, copies = Path("trust", "fleet", "device.json"), []
    known = (joined.workspace.root / record).read_bytes()

    def copied(owner, name):
        genuine = getattr(owner, name)

        def call(*arguments, **options):
            for step in (None, genuine):
                result = None if step is None else step(*arguments, **options)
                copies.append(tmp_path / f"copy{len(copies)}")
                shutil.copytree(joined.workspace.root, copies[-1], symlinks=True)
            return result

        monkeypatch.setattr(owner, name, call)

    with monkeypatch.context():
        for owner, name in ((joining, "pin"), (FleetClient, "refresh"), (os, "replace")):
            copied(owner, name)
        joined.join(other, rejoin=True)
        monkeypatch.undo()
    seen = []
    for copy in copies:
        report = sync(Workspace(copy).open(), make_examiner=joined.examiner.make)
        state = StateRecord(copy / "trust" / "fleet").read()
        assert report.outcome in ("up-to-date", "in-use")
        assert [path.name for path in (copy / "trust").iterdir() if path.name.startswith((".staging", "fleet-"))] == []
        seen.append(state.url == other.url)
        if not seen[-1]:
            assert state.seen == DeviceState.model_validate_json(known).seen, "what guards against rollback is kept"
    assert seen == sorted(seen), "the old fleet, and from one step on the new one"
    assert set(seen) == {False, True}


def test_a_full_disk_while_joining_another_fleet_loses_none(joined: FleetDevice, tmp_path: Path):
    other = SmallFleet(tmp_path / "other")
    other.publish(joined.pack(5.0))
    record = joined.workspace.trust_path / "fleet" / "device.json"
    known, refusals = record.read_bytes(), 0
    for refused in on_full_disk(lambda: joined.join(other, rejoin=True)):
        if refused is not None:
            refusals += 1
            assert other.url in record.read_text() or record.read_bytes() == known
            assert not list(joined.workspace.trust_path.glob(".staging*"))
    assert refusals > 3
    assert joined.sync().outcome == "up-to-date"


def test_a_fleet_may_move(joined: FleetDevice, fleet: SmallFleet, tmp_path: Path):
    shutil.move(fleet.folder, tmp_path / "moved")
    with pytest.raises(StoreError):
        joined.sync()
    assert joined.sync(invitation=Invitation(url=str(tmp_path / "moved"))).outcome == "up-to-date"
    assert joined.sync().outcome == "up-to-date"


def test_a_relative_url_means_the_same_later(device: FleetDevice, fleet: SmallFleet, tmp_path: Path, monkeypatch):
    fleet.publish(device.pack())
    monkeypatch.chdir(tmp_path)
    device.join(fleet, url="fleet")
    monkeypatch.chdir("/")
    assert device.sync().outcome == "up-to-date"


def test_channels(joined: FleetDevice, fleet: SmallFleet):
    beta = joined.pack(3.0)
    fleet.publish(beta, "beta")
    assert joined.sync(invitation=Invitation(channel="beta")).in_use == beta.name
    assert joined.sync().channel == "beta"
    with pytest.raises(MissingObjectError, match="fleet status"):
        joined.sync(invitation=Invitation(channel="none"))
    assert joined.sync().outcome == "up-to-date"


def test_a_delta_that_cannot_be_applied_gives_way_to_the_whole_pack(joined: FleetDevice, fleet: SmallFleet, caplog):
    first = joined.workspace.current_pack()
    new = joined.pack(4.0)
    fleet.publish(new, parents=[first])
    (first / "eval.json").write_text("{}")
    report = joined.sync()
    assert (report.outcome, report.delta_from, report.in_use) == ("in-use", None, new.name)
    assert "the whole pack is fetched" in caplog.text


def test_a_pack_that_is_here_is_not_fetched(joined: FleetDevice, fleet: SmallFleet):
    new = joined.pack(4.0)
    joined.workspace.install_pack(new)
    fleet.publish(new)
    assert joined.sync().fetched_bytes == 0


def test_a_sick_pack_is_refused_and_not_tried_again_until_the_channel_moves_on(joined: FleetDevice, fleet: SmallFleet):
    sick, well = joined.pack(2.0), joined.pack(3.0)
    joined.examiner.answers[sick.name] = BAD
    fleet.publish(sick)
    links, before = joined.links(), joined.outside_trust()
    assert joined.sync().outcome == "refused"
    report = joined.sync()
    assert (report.outcome, report.fetched_bytes) == ("refused-before", 0)
    assert "0.0 %" in report.reason
    assert (joined.links(), joined.outside_trust()) == (links, before)
    fleet.publish(well)
    assert joined.sync().in_use == well.name
    joined.examiner.answers.clear()
    fleet.publish(sick)
    assert joined.sync().in_use == sick.name


def test_a_pack_that_fails_through_the_link_is_rolled_back(joined: FleetDevice, fleet: SmallFleet):
    links = joined.links()
    joined.examiner.answers["current"] = BAD
    fleet.publish(joined.pack(2.0))
    report = joined.sync()
    assert (report.outcome, report.in_use) == ("rolled-back", links[0])
    assert joined.links() == links
    assert joined.workspace.trial.read() is None
    assert joined.sync().outcome == "refused-before"


def test_the_first_pack_ever_may_fail_too(device: FleetDevice, fleet: SmallFleet):
    device.examiner.answers["current"] = replace(BAD, unusable=("a synthetic sample",))
    fleet.publish(device.pack())
    assert device.join(fleet).outcome == "rolled-back"
    assert device.links() == (None, None)


def test_a_trial_that_is_confirmed_stays(joined: FleetDevice, fleet: SmallFleet):
    good, new = joined.links()[0], joined.pack(2.0)
    fleet.publish(new)
    assert joined.sync(trial=True).outcome == "on-trial"
    assert joined.links() == (new.name, good)
    assert mark_good(joined.workspace) == new.name
    assert joined.sync().outcome == "up-to-date"
    with pytest.raises(InputError, match="on trial"):
        mark_good(joined.workspace)


def test_a_trial_that_nobody_confirms_is_given_up_also_offline(joined: FleetDevice, fleet: SmallFleet, caplog):
    links, new = joined.links(), joined.pack(2.0)
    fleet.publish(new)
    joined.sync(trial=True)
    fleet.folder.rename(fleet.folder.parent / "away")
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError):
        joined.sync()
    assert "mark-good" in caplog.text
    assert joined.links() == links
    (fleet.folder.parent / "away").rename(fleet.folder)
    assert joined.sync().outcome == "refused-before"
    fleet.announce("stable", fleet.add_pack(new))
    fleet.commit("packs", "channels")
    assert joined.sync().in_use == new.name


def test_previous_stays_the_last_good_pack_during_a_trial(joined: FleetDevice, fleet: SmallFleet):
    good, new = joined.links()[0], joined.pack(2.0)
    fleet.publish(new)
    joined.sync(trial=True)
    own = joined.child(new, 7.0)
    joined.workspace.install_pack(own)
    joined.workspace.use_pack(own.name)
    assert joined.links() == (own.name, good)
    assert joined.sync().outcome == "on-top"
    assert joined.links() == (own.name, good)
    third = joined.pack(8.0)
    joined.workspace.install_pack(third)
    joined.workspace.use_pack(third.name)
    assert joined.links() == (third.name, own.name)


def test_what_was_put_in_use_here_is_left_alone(joined: FleetDevice):
    own = joined.pack(9.0)
    joined.workspace.install_pack(own)
    joined.workspace.use_pack(own.name)
    assert joined.sync().outcome == "left-alone"


def test_a_withdrawn_pack_gives_way_even_to_a_worse_one(joined: FleetDevice, fleet: SmallFleet):
    first = joined.workspace.current_pack()
    bad = joined.pack(2.0)
    fleet.publish(bad, parents=[first])
    assert joined.sync().in_use == bad.name
    joined.examiner.answers[first.name] = joined.examiner.answers["current"] = BAD
    released = fleet.add_pack(joined.made / first.name)
    fleet.announce("stable", released, withdrawn=[bad.name])
    fleet.commit("packs", "channels")
    report = joined.sync()
    assert (report.outcome, report.in_use) == ("in-use", first.name)
    assert joined.links() == (first.name, None), "what was withdrawn is no pack to go back to"
    assert joined.sync().outcome == "up-to-date"


def test_exemplars_follow_to_the_new_pack_as_far_as_it_knows_their_classes(joined: FleetDevice, fleet: SmallFleet):
    import numpy as np

    store, old = ReplayStore(joined.workspace.replay_path), joined.links()[0]
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    samples = tuple(Sample(None, pictures + n, label, f"{n}.png") for n, label in enumerate(("dog", "cät", "gone")))
    store.write(old, Exemplars(samples, samples[:2]))
    new = joined.pack(2.0)
    fleet.publish(new)
    assert joined.sync().outcome == "in-use"
    found = store.read(new.name)
    assert [sample.label for sample in found.train] == ["dog", "cät"]
    assert [sample.source for sample in found.holdout] == ["0.png", "1.png"]
    assert len(store.read(old).train) == 3


def test_a_pack_for_another_bundle_is_refused_before_it_is_fetched(joined: FleetDevice, fleet: SmallFleet):
    released = fleet.add_pack(joined.pack(2.0, bundle_digest=OTHER_BUNDLE))
    fleet.object(released.archive).unlink()
    fleet.announce("stable", released)
    fleet.commit("packs", "channels")
    before = joined.outside_trust()
    with pytest.raises(PackError, match="--replace"):
        joined.sync()
    assert joined.outside_trust() == before


def test_an_offline_device_keeps_working_and_is_told(joined: FleetDevice, fleet: SmallFleet):
    shutil.rmtree(fleet.folder)
    before = snapshot(joined.workspace.root)
    with pytest.raises(StoreError, match="unreachable"):
        joined.sync()
    assert snapshot(joined.workspace.root) == before


def test_an_unreachable_store_is_tried_again_and_then_given_up(joined: FleetDevice):
    from mmcl_edge.fleet.joining import FOLDER
    from mmcl_edge.fleet.sync_state import StateRecord

    record, pauses = StateRecord(joined.workspace.trust_path / FOLDER), []
    record.write(record.read().model_copy(update={"url": "http://127.0.0.1:9/fleet"}))

    def impatient(url: str) -> Store:
        store = Store.open(url, retries=3)
        store.sleep = pauses.append
        return store

    before = joined.outside_trust()
    with pytest.raises(StoreError, match=r"unreachable \(4 tries\)"):
        sync(joined.workspace, open_store=impatient, make_examiner=joined.examiner.make)
    assert len(pauses) == 3
    assert pauses[2] > pauses[0]
    assert joined.outside_trust() == before


def test_expired_metadata_is_no_attack(joined: FleetDevice, fleet: SmallFleet):
    fleet.days = -0.5
    fleet.publish(joined.pack(2.0))
    before = joined.outside_trust()
    with pytest.raises(ExpiredError, match="fleet refresh"):
        joined.sync()
    assert joined.outside_trust() == before
    fleet.days = 5
    fleet.commit("targets", "channels", "packs", "devices")
    assert joined.sync().outcome == "in-use"


def test_a_clock_that_is_years_fast_is_named(joined: FleetDevice, fleet: SmallFleet):
    fleet.days = -5 * 365
    fleet.commit()
    with pytest.raises(ExpiredError, match="either the clock is fast"):
        joined.sync()


def test_a_clock_that_is_years_late_is_named(device: FleetDevice, fleet: SmallFleet):
    fleet.days = 5 * 365
    fleet.publish(device.pack())
    with pytest.raises(ExpiredError, match="clock is probably late"):
        device.join(fleet)
    assert device.workspace.current_pack() is None


def test_a_clock_that_went_back_is_named(joined: FleetDevice, monkeypatch: pytest.MonkeyPatch):
    from datetime import timedelta

    now = sync_module._now()
    monkeypatch.setattr(sync_module, "_now", lambda: now - timedelta(days=700))
    with pytest.raises(ExpiredError, match="before; set it"):
        joined.sync()


def test_one_at_a_time(joined: FleetDevice):
    import subprocess
    import sys

    with joined.workspace.lock():
        code = (
            "import sys\nfrom mmcl_edge.fleet.sync import sync\nfrom mmcl_edge.runtime.workspace import Workspace\n"
            "from mmcl_edge.errors import LockedError\n"
            "try:\n    sync(Workspace(sys.argv[1]))\nexcept LockedError:\n    sys.exit(7)\n"
        )
        ended = subprocess.run([sys.executable, "-c", code, str(joined.workspace.root)], check=False)
    assert ended.returncode == 7
    assert LockedError.exit_code == 2


class Cut(BaseException):
    """Ends a process in the middle, as far as a test can."""


@pytest.mark.parametrize("trial", [False, True], ids=["plain", "trial"])
@pytest.mark.parametrize("healthy", [True, False], ids=["healthy", "sick"])
def test_a_cut_in_the_check_through_the_link_is_settled_by_the_next_sync(
    joined: FleetDevice, fleet: SmallFleet, monkeypatch: pytest.MonkeyPatch, trial: bool, healthy: bool
):
    links, new = joined.links(), joined.pack(2.0)
    fleet.publish(new)

    def cut(pack: Path) -> Examination:
        if pack.name == "current":
            raise Cut
        return joined.examiner.usual

    with monkeypatch.context() as patch:
        patch.setattr(joined.examiner, "examine", cut)
        with pytest.raises(Cut):
            joined.sync(trial=trial)
    assert joined.links() == (new.name, links[0])
    if not healthy:
        joined.examiner.answers["current"] = BAD
    report = joined.sync()
    if healthy:
        assert report.outcome == "up-to-date"
        assert "checked now" in report.settled
        assert (joined.workspace.trial.read() is not None) == trial
    else:
        assert report.outcome == "refused-before"
        assert "given up" in report.settled
        assert joined.links() == links


def test_a_check_that_dies_twice_counts_as_failed(joined: FleetDevice, fleet: SmallFleet, monkeypatch):
    links, new = joined.links(), joined.pack(2.0)
    fleet.publish(new)

    def cut(pack: Path) -> Examination:
        if pack.name == "current":
            raise Cut
        return joined.examiner.usual

    with monkeypatch.context() as patch:
        patch.setattr(joined.examiner, "examine", cut)
        for _ in range(2):
            with pytest.raises(Cut):
                joined.sync()
    report = joined.sync()
    assert "did not end" in report.settled
    assert joined.links() == links


@pytest.mark.parametrize("step", ["restore", "write", "clear"])
def test_a_cut_while_a_trial_is_given_up_is_settled(joined: FleetDevice, fleet: SmallFleet, monkeypatch, step: str):
    links, new = joined.links(), joined.pack(2.0)
    fleet.publish(new)
    joined.sync(trial=True)

    def cut(*args: object) -> None:
        raise Cut

    owner = joined.workspace if step == "restore" else joined.workspace.trial
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, cut)
        with pytest.raises(Cut):
            joined.sync()
    assert joined.sync().outcome == "refused-before"
    assert joined.links() == links
    assert joined.workspace.trial.read() is None


def test_a_full_disk_at_every_write_leaves_the_old_pack_or_the_new_one(joined: FleetDevice, fleet: SmallFleet):
    (old, _), new = joined.links(), joined.pack(2.0)
    fleet.publish(new)
    root, kept = joined.workspace.root, joined.workspace.root.parent / "kept"
    shutil.copytree(root, kept, symlinks=True)
    seen = []
    with joined.workspace.lock():  # else the note beside the lock would be the first write, and may fail unharmed
        for refused in on_full_disk(lambda: joined.sync()):
            Workspace(root).open()
            seen.append((refused, joined.links()[0]))
            for path in [*root.iterdir()]:
                if not path.name.startswith(".lock"):
                    path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
            shutil.copytree(kept, root, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock*"))
    assert {digest for _, digest in seen} == {old, new.name}
    assert seen[-1] == (None, new.name)
    assert sum(digest == old for _, digest in seen) > 20
    assert all("no space is left" in str(refused) for refused, _ in seen[:-1])


def test_after_each_full_disk_the_same_sync_gets_further(joined: FleetDevice, fleet: SmallFleet):
    new = joined.pack(2.0)
    fleet.publish(new)
    with joined.workspace.lock():
        refusals = list(on_full_disk(lambda: joined.sync()))
    assert len(refusals) > 10
    assert joined.sync().outcome == "up-to-date"
    assert joined.links()[0] == new.name


def test_a_damaged_trial_record_is_a_sentence_and_changes_nothing(joined: FleetDevice):
    joined.workspace.trial.path.write_text("{}")
    before = snapshot(joined.workspace.root)
    with pytest.raises(InputError, match=r"trial\.json"):
        joined.sync()
    assert snapshot(joined.workspace.root) == before
    joined.workspace.use_pack(joined.links()[0])


def test_a_device_without_a_bundle_is_told(tmp_path: Path, fleet: SmallFleet, device: FleetDevice):
    fleet.publish(device.pack())
    bare = Workspace(tmp_path / "bare").create()
    with pytest.raises(InputError, match="bundle"):
        sync(bare, SyncRequest(invitation=Invitation(url=fleet.url, root=fleet.root)))
    bare.install_bundle(write_bundle(tmp_path / "again").path)


def test_trials_need_no_fleet_to_be_settled(joined: FleetDevice, fleet: SmallFleet):
    fleet.publish(joined.pack(2.0))
    joined.sync(trial=True)
    shutil.rmtree(joined.workspace.trust_path / "fleet")
    with joined.workspace.lock():
        assert "given up" in Trials(joined.workspace, lambda trial: None).settle()


def test_a_device_may_join_before_anything_was_released(device: FleetDevice, fleet: SmallFleet):
    report = device.join(fleet)
    assert (report.outcome, report.counter, report.pack, report.in_use) == ("nothing-released", 0, None, None)
    assert report.joined == fingerprint(fleet)
    assert device.sync().outcome == "nothing-released"
    fleet.publish(device.pack())
    assert device.sync().outcome == "in-use"


def test_a_channel_that_does_not_exist_is_a_sentence(joined: FleetDevice):
    with pytest.raises(MissingObjectError, match="kitchens"):
        joined.sync(invitation=Invitation(channel="kitchens"))


def test_a_web_server_that_serves_the_folder_is_enough_to_follow(device: FleetDevice, fleet: SmallFleet):
    from tests.webstore import plain, served

    first, second = device.pack(), device.pack(1.0)
    fleet.publish(first)
    with served(plain(fleet.folder)) as url:
        assert device.join(fleet, url=url).in_use == first.name
        fleet.publish(second, parents=[first])
        assert device.sync().delta_from == first.name


def test_a_sync_that_finds_nothing_to_do_imports_neither_torch_nor_onnxruntime(joined: FleetDevice):
    import subprocess
    import sys

    code = (
        "import sys\nfrom mmcl_edge.fleet.sync import sync\nfrom mmcl_edge.runtime.workspace import Workspace\n"
        "assert sync(Workspace(sys.argv[1])).outcome == 'up-to-date'\n"
        "sys.exit(7 if {'torch', 'onnxruntime'} & set(sys.modules) else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(joined.workspace.root)], check=False).returncode == 0
