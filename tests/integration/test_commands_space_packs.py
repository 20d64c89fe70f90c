"""Commands on a pack that holds a shared space: what a person is told of it, and what it cannot do, in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcl_edge.calibration.confidence import calibrate_confidence
from mmcl_edge.commands.calibrate_ranges import _fitting
from mmcl_edge.errors import PackError
from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import Exemplars, ReplayStore
from mmcl_edge.runtime.workspace import HOME_VARIABLE, Workspace
from tests.adapting import request, write_task
from tests.builders import snapshot
from tests.conftest import TinyBundle
from tests.integration.commands import answer, refused, run
from tests.space_packs import bundle_space, held_pairs, space_contents, written


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> tuple[Pack, Pack]:
    """A space of text and images, and what it became after sounds."""
    folder, runtime = tmp_path_factory.mktemp("packs"), Runtime.open(tiny("captioned").path, provider="cpu", threads=1)
    image = bundle_space(runtime, "image")
    first = written(folder, space_contents(image, bundle_digest=runtime.bundle.family))
    both = bundle_space(runtime, "sound", base=image)
    figures = {"retrieval_image": 0.75, "retrieval_sound": 0.5}
    changes = {"parents": (first.as_parent(),), "version": 2, "evaluation": figures}
    return first, written(folder, space_contents(both, bundle_digest=runtime.bundle.family, **changes))


@pytest.fixture
def workspace(tmp_path: Path, tiny: TinyBundle, packs: tuple[Pack, Pack], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    made = Workspace(tmp_path / "home").create()
    made.install_bundle(tiny("captioned").path)
    for pack in packs:
        made.install_pack(pack.path)
        made.use_pack(pack.digest)
    return made


def test_list_show_and_use_tell_of_the_space(workspace: Workspace, packs: tuple[Pack, Pack]):
    rows = answer("pack", "list")["packs"]
    assert [(row["labels"], row["modalities"]) for row in rows] == [
        ([], ["text", "image", "sound"]),
        ([], ["text", "image"]),
    ]
    assert "text, image, sound" in run("pack", "list").stdout
    shown = answer("pack", "show")
    assert shown["space"] == {
        "modalities": ["text", "image", "sound"],
        "mediators": ["text"],
        "codes": len(space_of(packs[1]).tensors["codebook.codes"]),
        "experts": 4,
        "stages": ["image", "sound"],
        "pairs": {"image": 8, "sound": 8},
    }
    text = run("pack", "show").stdout
    for words in ("training pairs", "image 8, sound 8", "It knows no classes.", "retrieval_image"):
        assert words in text
    assert "0 classes, shared space of text, image;" in run("pack", "use", packs[0].digest).stdout
    assert "shared space of text, image" in run("doctor").stdout


def test_lists_of_packs_without_a_space_stay_as_they_were(workspace: Workspace, tmp_path: Path):
    for folder in workspace.list_packs():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    written(workspace.packs_path, space_contents(None, bundle_digest=workspace.bundle_family()))
    assert "shared space" not in run("pack", "list").stdout
    assert answer("pack", "show", str(workspace.list_packs()[0]))["space"] is None


@pytest.mark.parametrize("archived", [None, "whole", "delta"])
def test_inspect_and_verify_tell_of_the_space(
    workspace: Workspace, packs: tuple[Pack, Pack], tmp_path: Path, archived: str | None
):
    place: Path = packs[1].path
    if archived is not None:
        place = tmp_path / "pack.mmclpack"
        write_archive(packs[1].path, place, parent=packs[0].path if archived == "delta" else None)
    assert answer("pack", "inspect", place)["space"]["modalities"] == ["text", "image", "sound"]
    assert "Shared space" in run("pack", "inspect", place).stdout
    checks = {row["check"]: row["found"] for row in answer("pack", "verify", place)["checks"]}
    assert checks["shared space"].startswith("whole: text, image, sound;")
    assert checks["configuration"] == "valid, learner none"


def test_verify_refuses_a_malformed_space(workspace: Workspace, packs: tuple[Pack, Pack], tmp_path: Path):
    stored = space_of(packs[0])
    harmed = {"space": {**stored.module()["space"], "codes_settled": 1 << 40}}
    made = written(tmp_path, space_contents(stored, module=harmed, bundle_digest=workspace.bundle_family()))
    refused(run("pack", "verify", made.path), "more of its codes are settled")


def test_unchanged_branches_are_told_once(workspace: Workspace, packs: tuple[Pack, Pack], tmp_path: Path):
    first, second = packs
    found = answer("pack", "diff", first.path, second.path)["tensors"]
    assert answer("pack", "diff", first.path, second.path)["modalities"] == {"added": ["sound"], "removed": []}
    assert "modalities added" in run("pack", "diff", first.path, second.path).stdout
    changed = {row["name"] for row in found["changed"]}
    assert not [name for name in changed if name.startswith("space.branches.image.")]
    assert {name.split(".")[2] for name in found["added"] if ".branches." in name} == {"sound"}
    whole, delta = tmp_path / "whole", tmp_path / "delta"
    write_archive(second.path, whole)
    write_archive(second.path, delta, parent=first.path)
    told = answer("pack", "inspect", delta)["tensors"]
    assert {row["from"] for row in told if row["name"].startswith("space.branches.image.")} == {"parent"}
    assert delta.stat().st_size < 0.8 * whole.stat().st_size


@pytest.mark.parametrize(
    "arguments",
    [("predict", "a.txt"), ("calibrate", "confidence"), ("export", "--fuse", "{pack}", "--out", "fused")],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_needs_classes_says_so(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: tuple[Pack, Pack], arguments: tuple
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a red dog")
    before = snapshot(workspace.root)
    result = run(*(packs[1].path if one == "{pack}" else one for one in arguments))
    refused(result, "shared space alone", "adapt --task")
    assert snapshot(workspace.root) == before
    assert not (tmp_path / "fused").exists()


def test_ranges_are_measured_without_a_pack_that_knows_no_classes(packs: tuple[Pack, Pack]):
    pack = packs[1]
    assert _fitting(pack.path, pack.manifest.bundle_digest, named=False) is None
    with pytest.raises(PackError, match="should know a class"):
        _fitting(pack.path, pack.manifest.bundle_digest, named=True)


def test_a_calibration_leaves_the_space_as_it_is(workspace: Workspace, packs: tuple[Pack, Pack]):
    write_task(workspace, "first", {"low": "pair", "high": "pair"}, count=30)
    ReplayStore(workspace.replay_path).write(packs[1].digest, Exemplars(pairs=held_pairs("image")))
    assert adapt(workspace, request("first")).accepted
    calibrate_confidence(workspace, false_alarm_rate=0.3, provider="cpu", threads=1)
    found = read_pack(workspace.current_pack())
    assert found.manifest.parents[0].method == "calibrate"
    now, before = space_of(found), space_of(packs[1])
    assert (now.facts, now.config) == (before.facts, before.config)
    assert all(value.equal(before.tensors[name]) for name, value in now.tensors.items())
    assert len(ReplayStore(workspace.replay_path).read(found.digest).pairs) == 8
    card = (found.path / "README.md").read_text()
    assert "## Shared space" in card
    assert "# Adapter pack" in card


def test_the_card_of_a_space_alone(packs: tuple[Pack, Pack]):
    card = (packs[1].path / "README.md").read_text()
    assert "# Shared space\n\n| fact" in card
    assert "knows no classes" in card
    assert "placement" not in card
    assert "| training pairs | image 8, sound 8 |" in card
    assert json.loads((packs[1].path / "pack.json").read_bytes())["labels"] == []
