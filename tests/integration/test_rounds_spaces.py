"""Federated rounds beside a shared space: it stays as it is, and nobody changes it unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmcl_edge.fleet.rounds.device import take_part
from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.messages import Answer, packed
from mmcl_edge.fleet.rounds.server import Rounds
from mmcl_edge.fleet.rounds.spaces import same_space
from mmcl_edge.packs import Pack, PackContents, read_pack, write_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import method, request, write_task
from tests.conftest import TinyBundle
from tests.space_packs import bundle_space, held_pairs, small_space, space_contents, written

ANALYTIC = method().model_copy(update={"learner": "analytic"})
TASKS = {"one": ("low", "high"), "two": ("high", "middle")}


@pytest.fixture(scope="module")
def runtime(tiny: TinyBundle) -> Runtime:
    return Runtime.open(tiny("captioned").path, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime) -> Pack:
    """A pack that holds a shared space alone."""
    contents = space_contents(bundle_space(runtime, "image"), bundle_digest=runtime.bundle.family)
    return written(tmp_path_factory.mktemp("first"), contents)


def device(folder: Path, name: str, runtime: Runtime) -> Workspace:
    workspace = Workspace(folder / name).create()
    workspace.install_bundle(runtime.bundle.path)
    write_task(workspace, "rounds", dict.fromkeys(TASKS[name], "pair"), count=6, seed=len(name))
    return workspace


def server(folder: Path, runtime: Runtime, first: Pack | None) -> Rounds:
    adapt = request("rounds").adapt
    begin = None if first is None else first.path
    return Rounds(folder, bundle=runtime.bundle.family, method=ANALYTIC, adapt=adapt, merge=PackMerge(), first=begin)


def answered(workspace: Workspace, rounds: Rounds) -> Answer:
    return take_part(workspace, rounds.order(), task="rounds", provider="cpu", threads=1)


def test_classes_are_learned_beside_the_space_and_the_space_stays(tmp_path: Path, runtime: Runtime, first: Pack):
    rounds, known = server(tmp_path / "server", runtime, first), set()
    for name in TASKS:
        workspace = device(tmp_path, name, runtime)
        workspace.install_pack(first.path)
        workspace.use_pack(first.digest)
        ReplayStore(workspace.replay_path).write(first.digest, Exemplars(pairs=held_pairs("image")))
        answer = answered(workspace, rounds)
        assert answer.refused == ""
        assert rounds.receive(answer, sender=name) is None
        assert len(ReplayStore(workspace.replay_path).read(answer.pack).pairs) == 8
        assert rounds.close().rejected is None
        known |= set(TASKS[name])
        pack = read_pack(rounds.pack)
        assert set(pack.manifest.label_names) == known
        assert same_space(pack, first)
    runtime.load_pack(rounds.pack)
    assert runtime.modalities == ("text", "image")


def changed(pack: Pack, folder: Path, **changes: object) -> Path:
    contents = PackContents(
        tensors=pack.tensors(),
        module=pack.module,
        config=pack.config,
        bundle_digest=pack.manifest.bundle_digest,
        labels=pack.manifest.label_names,
        parents=pack.manifest.parents,
        version=pack.manifest.version,
        sample_counts=pack.manifest.sample_counts,
    )
    return folder / write_pack(folder, replace(contents, **changes))


def other_values(pack: Pack) -> dict[str, object]:
    name = "space.codebook.codes"
    return {"tensors": {**pack.tensors(), name: pack.tensors()[name] * 1.01}}


def no_space(pack: Pack) -> dict[str, object]:
    tensors = {name: value for name, value in pack.tensors().items() if not name.startswith("space.")}
    return {
        "tensors": tensors,
        "config": pack.config.model_copy(update={"space": None}),
        "module": {name: value for name, value in pack.module.items() if name != "space"},
    }


def other_facts(pack: Pack) -> dict[str, object]:
    return {"module": {**pack.module, "space": {**pack.module["space"], "pairs": {"image": 1 << 40}}}}


def other_settings(pack: Pack) -> dict[str, object]:
    space = pack.config.space.model_copy(update={"epochs": 0})
    return {"config": pack.config.model_copy(update={"space": space})}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime, first: Pack) -> tuple[Answer, Pack]:
    folder = tmp_path_factory.mktemp("honest")
    workspace, rounds = device(folder, "one", runtime), server(folder / "server", runtime, first)
    answer = answered(workspace, rounds)
    return answer, read_pack(workspace.packs_path / answer.pack)


@pytest.mark.parametrize("change", [other_values, no_space, other_facts, other_settings])
def test_an_answer_with_another_space_is_left_out(
    tmp_path: Path, runtime: Runtime, first: Pack, honest: tuple[Answer, Pack], change
):
    answer, pack = honest
    rounds = server(tmp_path / "server", runtime, first)
    forged = changed(pack, tmp_path, **change(pack))
    archive = packed(forged, scratch=tmp_path)
    said = rounds.receive(answer.model_copy(update={"pack": forged.name, "archive": archive}), sender="one")
    assert said is not None
    assert "another shared space" in said
    assert rounds.close().pack == first.digest
    assert [one.name for one in rounds.packs.iterdir()] == [first.digest]


def test_a_space_that_nobody_ordered_is_left_out(tmp_path: Path, runtime: Runtime, first: Pack):
    workspace, rounds = device(tmp_path, "one", runtime), server(tmp_path / "server", runtime, None)
    workspace.install_pack(first.path)
    workspace.use_pack(first.digest)
    said = rounds.receive(answered(workspace, rounds), sender="one")
    assert said is not None
    assert "another shared space" in said


def test_spaces_are_the_same_or_not(tmp_path: Path):
    one, other = (written(tmp_path, space_contents(small_space(name))) for name in ("image", "speech"))
    nothing = written(tmp_path, space_contents(None))
    assert same_space(one, one)
    assert same_space(nothing, None)
    assert same_space(nothing, nothing)
    assert not same_space(one, other)
    assert not same_space(one, None)
    assert not same_space(nothing, one)
    assert torch.equal(one.tensors()["space.codebook.codes"], small_space("image").tensors["codebook.codes"])
