"""Hostile shared spaces: refused with a sentence wherever a pack comes in, nothing changed, little memory and time."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl_edge.errors import MergeError, PackError
from mmcl_edge.fileio import sha256_bytes
from mmcl_edge.fleet.joining import Invitation
from mmcl_edge.fleet.layout import ReleasedPack
from mmcl_edge.fleet.merge import merge_packs
from mmcl_edge.fleet.sync import SyncRequest, sync
from mmcl_edge.learners.comet.storage import StoredSpace
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.packs.manifest import CONFIG_NAME
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from tests.attacks.test_fleet_inbox import Scene
from tests.attacks.test_fleet_packs import archived
from tests.builders import forge_file, snapshot
from tests.conftest import TinyBundle
from tests.fleets import SmallFleet
from tests.space_packs import bundle_space, held_pairs, shown, space_contents

MOST_BYTES, MOST_S = 64 << 20, 10.0
"""What refusing a pack of some kilobytes may take."""


@pytest.fixture(scope="module")
def runtime(tiny: TinyBundle) -> Runtime:
    return Runtime.open(tiny("captioned").path, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def good(runtime: Runtime) -> StoredSpace:
    return bundle_space(runtime, "image")


@dataclass(frozen=True)
class Attack:
    """A space that was harmed.

    Attributes:
        words: of the refusal, wherever it comes first.
        tensors: changed or added; ``None`` takes one away.
        facts: changed or added; not a mapping: in the place of all facts.
        settings: of the configuration, changed.
        early: whether ``read_pack`` refuses it, which looks at no tensor of a space.
    """

    words: str
    tensors: Mapping[str, Any] | None = None
    facts: Any = None
    settings: Mapping[str, Any] | None = None
    early: bool = False

    def make(self, good: StoredSpace, folder: Path, family: str) -> Path:
        """A pack folder whose digest and files fit."""
        contents = space_contents(good, bundle_digest=family)
        tensors = dict(contents.tensors)
        for name, change in (self.tensors or {}).items():
            if change is None:
                del tensors[f"space.{name}"]
            else:
                tensors[f"space.{name}"] = change(tensors.get(f"space.{name}"))
        pack = folder / write_pack(folder, replace(contents, tensors=tensors))
        if self.facts is None and self.settings is None:
            return pack
        config = json.loads((pack / CONFIG_NAME).read_bytes())
        config["method"]["space"].update(self.settings or {})
        if isinstance(self.facts, Mapping):
            config["module"]["space"].update(self.facts)
        elif self.facts is not None:
            config["module"]["space"] = self.facts
        forge_file(pack, CONFIG_NAME, json.dumps(config).encode())
        return pack.rename(folder / sha256_bytes((pack / "pack.json").read_bytes()))


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda old: torch.full_like(old, value)


def empty(*shape: int) -> Callable[[torch.Tensor | None], torch.Tensor]:
    return lambda old: torch.zeros(*shape)


HUGE = 1 << 40
ATTACKS = {
    "slots of 2^40": Attack("space.slots", settings={"slots": HUGE}, early=True),
    "hidden of 2^40": Attack("space.hidden", settings={"hidden": HUGE}, early=True),
    "experts of 2^40": Attack("space.experts", settings={"experts": HUGE}, early=True),
    "epochs of 2^40": Attack("space.epochs", settings={"epochs": HUGE}, early=True),
    "a rate that is no number": Attack("finite", settings={"learning_rate": float("inf")}, early=True),
    "an unknown setting": Attack("space.more", settings={"more": 1}, early=True),
    "slots that the tensors have not": Attack("should be float32", settings={"slots": 8000}),
    "a width that the tensors have not": Attack("should be float32", settings={"dim": 8000, "hidden": 8000}),
    "a rank of no experts at all": Attack(
        "should be float32",
        tensors={f"cmoe.frozen_{part}": empty(0, 8, 1 << 30) for part in ("down", "up")},
        facts={"experts_frozen": 0},
    ),
    "codes of no width": Attack("should be float32", tensors={"codebook.codes": empty(1 << 30, 0)}),
    "no codes": Attack(
        "no codes",
        tensors={
            "codebook.codes": empty(0, 8),
            "codebook.sums": empty(0, 8),
            "codebook.counts": empty(0),
            **{f"memory.{m}.{part}": empty(0, 8) for m in ("text", "image") for part in ("means", "variances")},
            **{f"memory.{m}.counts": empty(0) for m in ("text", "image")},
        },
        facts={"codes_settled": 0},
    ),
    "negative counts": Attack("below zero", tensors={"codebook.counts": filled(-1.0)}),
    "negative variances": Attack("below zero", tensors={"memory.image.variances": filled(-1.0)}),
    "double precision": Attack("should be float32", tensors={"codebook.sums": lambda old: old.double()}),
    "one dimension more": Attack("2 dimensions", tensors={"codebook.codes": lambda old: old[None]}),
    "a tensor too many": Attack("unknown", tensors={"branches.image.more": empty(3)}),
    "a tensor too few": Attack("missing", tensors={"prediction.next.bias": None}),
    "no facts": Attack("should be", facts=[]),
    "facts that nest": Attack("nest at most", facts={"stages": deep(600)}, early=True),
    "facts that nest a little": Attack("stages", facts={"stages": deep(20)}),
    "modalities that are no names": Attack("each once", facts={"modalities": ["text", "../../etc/passwd"]}),
    "modalities of another kind": Attack("modalities", facts={"modalities": {"text": 1, "image": 2}}),
    "a modality without tensors": Attack("should be there", facts={"modalities": ["text", "image", "speech"]}),
    "another modality than the tensors": Attack(
        "should be there", facts={"modalities": ["text", "sound"], "pairs": {}}
    ),
    "pairs of a modality it has not": Attack("among the modalities", facts={"pairs": {"speech": 1}}),
    "pairs beyond all numbers": Attack("less than or equal", facts={"pairs": {"image": 10**4000}}),
    "pairs below none": Attack("greater than or equal", facts={"pairs": {"image": -1}}),
    "more settled codes than codes": Attack("settled", facts={"codes_settled": 1 << 50}),
    "more frozen experts than experts": Attack("should be float32", facts={"experts_frozen": 1 << 50}),
    "stages that write to terminals": Attack("stages", facts={"stages": ["\x1b[2J"]}),
}
every = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


class Bounded:
    """Refuses to take much memory or time for a refusal."""

    def __enter__(self) -> None:
        tracemalloc.start()
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_BYTES
        assert time.monotonic() - self._started < MOST_S


@every
def test_a_runtime_refuses_and_keeps_the_pack_in_use(
    tmp_path: Path, runtime: Runtime, good: StoredSpace, attack: Attack
):
    family = runtime.bundle.family
    runtime.load_pack(tmp_path / write_pack(tmp_path, space_contents(good, bundle_digest=family)))
    before = runtime.pack.digest
    pack = attack.make(good, tmp_path, family)
    with Bounded(), pytest.raises(PackError, match=attack.words):
        runtime.load_pack(pack)
    assert runtime.pack.digest == before


def test_a_space_of_a_bundle_without_text_is_refused(tmp_path: Path, tiny: TinyBundle, good: StoredSpace):
    deaf = Runtime.open(tiny().path, provider="cpu", threads=1)
    pack = tmp_path / write_pack(tmp_path, space_contents(good, bundle_digest=deaf.bundle.family))
    with pytest.raises(PackError, match="a backbone for text"):
        deaf.load_pack(pack)


def test_a_space_of_other_features_is_refused(tmp_path: Path, runtime: Runtime, good: StoredSpace):
    cut = {f"branches.image.{part}": lambda old: old[:-1] for part in ("mean", "basis")}
    pack = Attack("", tensors=cut).make(good, tmp_path, runtime.bundle.family)
    with pytest.raises(PackError, match="made for this bundle"):
        runtime.load_pack(pack)


class Victim:
    """A device that follows a fleet with a space of its own in use."""

    def __init__(self, folder: Path, bundle: Path, good: StoredSpace) -> None:
        self.workspace = Workspace(folder / "home").create()
        self.workspace.install_bundle(bundle)
        self.fleet, self.good, self.made = SmallFleet(folder / "fleet"), good, folder / "made"
        own = self.made / write_pack(self.made, space_contents(good, bundle_digest=self.family))
        self.fleet.publish(own)
        assert self.sync(invitation=Invitation(url=self.fleet.url, root=self.fleet.root)).outcome == "in-use"
        ReplayStore(self.workspace.replay_path).write(own.name, Exemplars(pairs=held_pairs("image")))

    @property
    def family(self) -> str:
        return str(self.workspace.bundle_family())

    def sync(self, **changes: Any):
        return sync(self.workspace, SyncRequest(provider="cpu", threads=1, **changes))

    def state(self) -> dict[str, str]:
        return {name: kind for name, kind in snapshot(self.workspace.root).items() if not name.startswith("trust")}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime, good: StoredSpace) -> Victim:
    return Victim(tmp_path_factory.mktemp("victim"), runtime.bundle.path, good)


@every
def test_a_device_that_follows_refuses_and_changes_nothing(tmp_path: Path, victim: Victim, attack: Attack):
    """Signed by the fleet's own keys. What ``read_pack`` sees ends the sync, what the examination sees is refused."""
    release_anything(victim, attack.make(victim.good, tmp_path, victim.family))
    before = victim.state()
    try:
        with Bounded():
            said = victim.sync().reason
    except PackError as error:
        said = str(error)
    assert attack.words in said
    assert victim.state() == before


def release_anything(victim: Victim, pack: Path) -> None:
    """Release a pack that no honest program would archive."""
    data = archived(pack)
    released = ReleasedPack(pack=pack.name, version=1, bundle=victim.family, size_bytes=len(data))
    victim.fleet.put("packs", released.archive, data)
    victim.fleet.announce("stable", released)
    victim.fleet.commit("packs", "channels")


def test_vectors_that_are_no_numbers_are_not_given(tmp_path: Path, runtime: Runtime, good: StoredSpace):
    runtime.load_pack(NOTHING.make(good, tmp_path, runtime.bundle.family))
    with pytest.raises(PackError, match=r"should give finite vectors, but for 1 samples of image .*image/0"):
        runtime.embed([shown(0)], "image")


NOTHING = Attack("", settings={"embedding": "codes", "code_temperature": 1e-300})
VECTORS = {
    "no numbers": NOTHING,
    "no vectors at all": Attack(
        "",
        tensors={
            **{f"branches.image.project.{part}": filled(0.0) for part in ("weight", "bias")},
            **{f"cmoe.{part}": filled(0.0) for part in ("frozen_up", "up")},
        },
    ),
    "vectors out of all bounds": Attack(
        "",
        tensors={
            "branches.image.basis": filled(1e6),
            "branches.image.project.weight": filled(1e6),
            "branches.image.mean": filled(-1e6),
        },
    ),
    "all the same": Attack("", tensors={"branches.image.project.weight": filled(0.0)}),
}


@pytest.mark.parametrize("attack", VECTORS.values(), ids=VECTORS)
def test_a_device_refuses_spaces_whose_vectors_say_nothing(tmp_path: Path, victim: Victim, attack: Attack):
    before = victim.state()
    release_anything(victim, attack.make(victim.good, tmp_path, victim.family))
    report = victim.sync()
    assert report.outcome == "refused"
    assert any(words in report.reason for words in ("finite vectors", "unit vectors", "held-out pairs of image"))
    assert victim.state() == before


@pytest.mark.parametrize(
    "attack",
    [attack for attack in ATTACKS.values() if not attack.early],
    ids=[name for name, attack in ATTACKS.items() if not attack.early],
)
def test_the_inbox_leaves_it_out_and_says_why(tmp_path: Path, good: StoredSpace, attack: Attack):
    """What ``read_pack`` refuses is no matter of spaces: see ``test_fleet_inbox``."""
    scene = Scene(tmp_path)
    scene.upload(attack.make(good, tmp_path / "made", str(scene.hostile.workspace.bundle_family())))
    with Bounded():
        found = scene.collect()
    assert (found["honest"].status, found["hostile"].status) == ("new", "refused")
    assert attack.words in found["hostile"].reason
    assert {path.name for path in scene.out.iterdir() if path.is_dir()} == {scene.honest.base.name, scene.good.name}


def test_the_inbox_takes_a_whole_space(tmp_path: Path, good: StoredSpace):
    scene = Scene(tmp_path)
    pack = Attack("").make(good, tmp_path / "made", str(scene.hostile.workspace.bundle_family()))
    scene.upload(pack)
    found = scene.collect()["hostile"]
    assert (found.status, found.labels, found.modalities) == ("new", (), ("text", "image"))
    assert read_pack(scene.out / pack.name).space().modalities == ("text", "image")


@every
def test_a_merge_names_the_pack(tmp_path: Path, good: StoredSpace, attack: Attack):
    honest = [tmp_path / write_pack(tmp_path, space_contents(good, experiences=(name,))) for name in ("a", "b")]
    forged = attack.make(good, tmp_path, "0" * 64)
    before = snapshot(tmp_path)
    with Bounded(), pytest.raises((PackError, MergeError), match=attack.words):
        merge_packs([*honest, forged], tmp_path / "out")
    assert {name: kind for name, kind in snapshot(tmp_path).items() if not name.startswith("out")} == before
