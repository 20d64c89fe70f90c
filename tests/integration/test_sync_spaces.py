"""Sync of packs with shared spaces, examined with a real runtime: nothing that a device knows is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.fleet.joining import Invitation
from mmcl_edge.fleet.sync import SyncReport, SyncRequest, sync
from mmcl_edge.learners.comet.storage import StoredSpace, space_of
from mmcl_edge.packs import Pack, PackContents, read_pack, write_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from tests.conftest import TinyBundle
from tests.fleets import SmallFleet
from tests.predicting import LABELS, make_pack
from tests.space_packs import bundle_space, held_pairs, shown, space_contents


class Device:
    """A workspace with a tiny bundle, a fleet to follow, and packs made for both."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.made, self.runtime = folder / "made", runtime
        self.workspace = Workspace(folder / "home").create()
        self.workspace.install_bundle(runtime.bundle.path)
        self.store = ReplayStore(self.workspace.replay_path)
        self.fleet = SmallFleet(folder / "fleet")

    def space(self, stored: StoredSpace) -> Path:
        contents = space_contents(stored, bundle_digest=self.runtime.bundle.family)
        return self.made / write_pack(self.made, contents)

    def classes(self, stored: StoredSpace | None = None, **changes) -> Path:
        pack = read_pack(make_pack(self.made, self.runtime.bundle))
        contents = PackContents(
            tensors=pack.tensors() | ({} if stored is None else stored.tensors_in_pack()),
            module={} if stored is None else stored.module(),
            config=pack.config.model_copy(update={"space": None if stored is None else stored.config}),
            bundle_digest=pack.manifest.bundle_digest,
            labels=LABELS,
            experts=pack.manifest.experts,
        )
        return self.made / write_pack(self.made, replace(contents, **changes))

    def uses(self, pack: Path, *modalities: str, holdout: tuple = ()) -> Path:
        """Puts ``pack`` in use, as learned here: with held-out pairs of ``modalities``."""
        self.workspace.install_pack(pack)
        pairs = tuple(pair for modality in modalities for pair in held_pairs(modality))
        self.store.write(pack.name, Exemplars(holdout=holdout, pairs=pairs))
        self.workspace.use_pack(pack.name)
        return pack

    def release(self, pack: Path) -> SyncReport:
        self.fleet.publish(pack)
        invitation = Invitation(url=self.fleet.url, root=self.fleet.root)
        return sync(self.workspace, SyncRequest(invitation=invitation, provider="cpu", threads=1))

    @property
    def pack(self) -> Pack:
        return read_pack(self.workspace.current_pack())

    def answers(self, pack: Path, *modalities: str) -> list[np.ndarray]:
        self.runtime.load_pack(pack)
        return [self.runtime.embed([shown(row, modality) for row in range(8)], modality) for modality in modalities]


@pytest.fixture(scope="module")
def runtime(tiny: TinyBundle) -> Runtime:
    return Runtime.open(tiny("captioned").path, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def spaces(runtime: Runtime) -> dict[str, StoredSpace]:
    image = bundle_space(runtime, "image")
    return {"image": image, "sound": bundle_space(runtime, "sound"), "both": bundle_space(runtime, "sound", base=image)}


@pytest.fixture
def device(tmp_path: Path, runtime: Runtime) -> Device:
    return Device(tmp_path, runtime)


def harmed(stored: StoredSpace, *names: str) -> StoredSpace:
    """A space in which some tensors are nothing but zeros."""
    return replace(
        stored, tensors={**stored.tensors, **{name: torch.zeros_like(stored.tensors[name]) for name in names}}
    )


PROJECTION = tuple(f"branches.sound.project.{part}" for part in ("weight", "bias"))
EXPERTS = ("cmoe.frozen_up", "cmoe.up")


def test_a_space_alone_is_taken_and_followed(device: Device, spaces: dict[str, StoredSpace]):
    first, second = device.space(spaces["image"]), device.space(spaces["both"])
    report = device.release(first)
    assert (report.outcome, report.in_use, report.retrieval) == ("in-use", first.name, None)
    device.uses(first, "image")
    report = device.release(second)
    assert (report.outcome, report.in_use) == ("in-use", second.name)
    assert set(report.retrieval["before"]) == {"image"} == set(report.retrieval["after"])
    assert report.retrieval["after"]["image"] > 0.5
    assert len(device.store.read(second.name).pairs) == 8, "held-out pairs follow"


def test_the_space_of_the_device_rides_on_a_release_of_classes(device: Device, spaces: dict[str, StoredSpace]):
    own = device.uses(device.space(spaces["image"]), "image")
    release = device.classes()
    report = device.release(release)
    assert report.outcome == "in-use"
    assert report.in_use not in (own.name, release.name)
    assert device.pack.manifest.label_names == LABELS
    assert len(device.store.read(device.pack.digest).pairs) == 8
    for mine, before in zip(
        device.answers(device.pack.path, "image", "text"), device.answers(own, "image", "text"), strict=True
    ):
        assert np.array_equal(mine, before)
    assert device.runtime.load_pack(device.pack.path)
    here = device.runtime.predict_batch([shown(0)])[0].probabilities
    device.runtime.load_pack(release)
    assert here == device.runtime.predict_batch([shown(0)])[0].probabilities
    assert sync(device.workspace, SyncRequest(provider="cpu", threads=1)).outcome == "on-top"


def test_the_classes_of_the_device_ride_on_a_release_of_a_space(device: Device, spaces: dict[str, StoredSpace]):
    canaries = tuple(replace(shown(row), label=label) for row, label in enumerate(LABELS))
    device.uses(device.classes(spaces["image"]), "image", holdout=canaries)
    report = device.release(device.space(spaces["both"]))
    assert report.outcome == "in-use"
    assert report.accuracy["before"] == report.accuracy["after"]
    found = space_of(device.pack)
    assert found.facts.modalities == ("text", "image", "sound")
    assert device.pack.manifest.label_names == LABELS
    kept = device.store.read(device.pack.digest)
    assert (len(kept.holdout), len(kept.pairs)) == (3, 8)


def test_a_modality_that_the_release_lacks_is_merged_into_its_space(device: Device, spaces: dict[str, StoredSpace]):
    own = device.uses(device.space(spaces["both"]), "image", "sound")
    release = device.space(spaces["image"])
    report = device.release(release)
    assert report.outcome == "in-use"
    assert report.in_use not in (own.name, release.name)
    assert report.retrieval["after"] == pytest.approx(report.retrieval["before"], abs=0.1)
    assert device.pack.space().modalities == ("text", "image", "sound")
    assert {parent.digest for parent in device.pack.manifest.parents} == {own.name, release.name}
    assert len(device.store.read(device.pack.digest).pairs) == 16
    assert sync(device.workspace, SyncRequest(provider="cpu", threads=1)).outcome == "on-top"


REFUSED = {
    "a modality is missing, and its mediator is another": (lambda spaces: spaces["sound"], "does not know image"),
    "a modality finds nothing": (lambda spaces: harmed(spaces["both"], PROJECTION[0]), "held-out pairs of sound"),
    "nothing is of length 1": (lambda spaces: harmed(spaces["both"], *PROJECTION, *EXPERTS), "unit vectors"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_lose_a_modality_is_refused(device: Device, spaces: dict[str, StoredSpace], make, words: str):
    own = device.uses(device.space(spaces["both"]), "image", "sound")
    report = device.release(device.space(make(spaces)))
    assert report.outcome == "refused", report
    assert words in report.reason
    assert device.pack.digest == own.name


def test_a_release_that_withdraws_is_taken_whatever_it_lacks(device: Device, spaces: dict[str, StoredSpace]):
    first = device.space(spaces["image"])
    device.release(first)
    bad = device.space(spaces["both"])
    assert device.release(bad).outcome == "in-use"
    device.store.write(bad.name, Exemplars(pairs=held_pairs("sound")))
    device.fleet.publish(first, withdrawn=[bad.name])
    report = sync(device.workspace, SyncRequest(provider="cpu", threads=1))
    assert (report.outcome, device.pack.digest) == ("in-use", first.name)
