"""A device that was pruned syncs and pushes as it did before: what its packs come from is still known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmcl_edge.fleet.health import Examination
from mmcl_edge.fleet.prune import prune
from mmcl_edge.learners.analytic.addends import addends_of, folded
from mmcl_edge.packs import read_pack
from tests.fleets import SmallFleet
from tests.integration.test_sync_own import BASE, OTHER, OWN, Learner, atoms
from tests.pushing import PushingDevice
from tests.unit.test_analytic_addends import written

WORSE = Examination(right=0, canaries=10, classes=frozenset())


@pytest.fixture
def device(tmp_path: Path) -> PushingDevice:
    """A device that learned three times on top of a release and was pruned."""
    device = PushingDevice(tmp_path / "device", SmallFleet(tmp_path / "fleet"))
    first, *_ = [device.learn(value) for value in (1.0, 2.0, 3.0)]
    assert [one.digest for one in prune(device.workspace).removed] == [first.name]
    return device


def test_a_release_that_it_learned_on_top_of_is_known_as_such(device: PushingDevice):
    assert device.sync().outcome == "on-top"


def test_a_withdrawal_reaches_what_was_learned_on_top_of_it(device: PushingDevice):
    good = device.pack(9.0)
    device.examiner.answers[good.name] = WORSE  # which counts for nothing in a withdrawal
    device.fleet.publish(good, withdrawn=[device.base.name])
    report = device.sync()
    assert (report.outcome, report.in_use) == ("in-use", good.name)


def test_a_push_starts_from_the_release(device: PushingDevice):
    assert device.push().delta_from == device.base.name


def test_the_pack_of_a_push_that_was_cut_is_still_there(tmp_path: Path):
    device = PushingDevice(tmp_path / "device", SmallFleet(tmp_path / "fleet"))
    pushed = device.learn(1.0)
    device.push()
    for value in (2.0, 3.0):
        device.learn(value)
    shutil.rmtree(device.fleet.folder / "inbox")
    prune(device.workspace)
    report = device.push(pack=pushed.name)
    assert (report.pack, report.repeated) == (pushed.name, False)


def test_the_next_release_comes_as_a_delta(device: PushingDevice):
    device.fleet.publish(device.pack(9.0), parents=[device.base])
    assert device.sync().delta_from == device.base.name


def test_what_was_learned_here_survives_a_withdrawal_of_what_it_was_put_on_top_of(tmp_path: Path):
    device = Learner(tmp_path / "device", SmallFleet(tmp_path / "fleet"))
    bad, report = device.released(folded([BASE, OTHER]))
    line = [device.workspace.packs_path / report.in_use]
    for _ in range(3):
        pack = read_pack(line[-1])
        child = written(
            device.made,
            addends_of(pack),
            labels=pack.manifest.label_names,
            bundle_digest=pack.manifest.bundle_digest,
            parents=(pack.as_parent(),),
            version=pack.manifest.version + 1,
        )
        device.workspace.install_pack(child)
        device.workspace.use_pack(child.name)
        line.append(child)
    assert {one.digest for one in prune(device.workspace).removed} == {one.name for one in line[:2]}
    device.released(BASE, withdrawn=[bad.name])
    assert device.holds() == atoms(BASE, OWN)
