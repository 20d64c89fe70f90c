"""What a device learned in sums stays with it through releases and withdrawals; packs are examined by a rule here."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_edge.fleet.sync import SyncReport
from mmcl_edge.learners.analytic.addends import Addend, addends_of, folded
from mmcl_edge.packs import read_pack
from tests.fleets import FleetDevice, SmallFleet
from tests.unit.test_analytic_addends import DEVICES, written

BASE, OTHER, OWN = DEVICES
LABELS = {id(BASE): ("ant", "bee"), id(OTHER): ("bee", "cow"), id(OWN): ("dog", "eel")}


class Learner(FleetDevice):
    """A device whose packs hold sums; it uses the fleet's first release, ``BASE``, and learned ``OWN`` on top of it."""

    def __init__(self, folder: Path, fleet: SmallFleet) -> None:
        super().__init__(folder)
        self.fleet = fleet
        self.first = self.sums([BASE])
        fleet.publish(self.first)
        assert self.join(fleet).in_use == self.first.name
        self.own = self.sums([BASE, OWN], parent=self.first)
        self.workspace.install_pack(self.own)
        self.workspace.use_pack(self.own.name)

    def sums(self, addends: list[Addend], *, parent: Path | None = None) -> Path:
        labels = tuple(dict.fromkeys(name for one in addends for name in one.classes))
        parents = {} if parent is None else {"parents": (read_pack(parent).as_parent(),), "version": 2}
        return written(self.made, addends, labels=labels, bundle_digest=self.workspace.bundle_family(), **parents)

    def holds(self) -> set[str]:
        """The contributions that the pack in use holds."""
        return {atom for one in addends_of(read_pack(self.workspace.current_pack())) for atom in one.atoms}

    def released(self, *addends: Addend, **changes: object) -> tuple[Path, SyncReport]:
        pack = self.sums(list(addends))
        self.fleet.publish(pack, **changes)
        return pack, self.sync()


@pytest.fixture
def device(tmp_path: Path) -> Learner:
    return Learner(tmp_path / "device", SmallFleet(tmp_path / "fleet"))


def atoms(*addends: Addend) -> set[str]:
    return {atom for one in addends for atom in one.atoms}


def test_what_the_release_lacks_is_put_on_top_of_it(device: Learner):
    release, report = device.released(folded([BASE, OTHER]))
    assert (report.outcome, report.pack) == ("in-use", release.name)
    assert report.in_use not in (release.name, device.own.name)
    assert device.holds() == atoms(BASE, OTHER, OWN)
    assert device.sync().outcome == "on-top"
    assert device.links()[1] == device.own.name


def test_a_release_that_holds_it_is_taken_as_it_is(device: Learner):
    release, report = device.released(folded([BASE, OTHER, OWN]))
    assert report.in_use == release.name
    assert device.sync().outcome == "up-to-date"


def test_several_releases_one_after_the_other_keep_it(device: Learner):
    device.released(folded([BASE, OTHER]))
    device.released(OTHER)
    assert device.holds() == atoms(BASE, OTHER, OWN), "what the last release no longer holds was used here, and stays"
    release, report = device.released(folded([OTHER, BASE, OWN]))
    assert report.in_use == release.name


def test_a_withdrawal_takes_back_what_was_released_and_keeps_what_was_learned_here(device: Learner):
    bad, _ = device.released(folded([BASE, OTHER]))
    _, report = device.released(BASE, withdrawn=[bad.name])
    assert report.outcome == "in-use"
    assert device.holds() == atoms(BASE, OWN)
    assert bad.name not in [folder.name for folder in (device.workspace.previous_pack(),) if folder]


def test_a_trial_of_both_is_given_up_as_one(device: Learner):
    device.fleet.publish(device.sums([folded([BASE, OTHER])]))
    assert device.sync(trial=True).outcome == "on-trial"
    assert device.sync().outcome == "refused-before"
    assert device.links()[0] == device.own.name
