"""What a device learned and a release lacks, where one of them holds a shared space: whole, and to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import PackError
from mmcl_edge.fleet.carry import CARRY, carried
from mmcl_edge.learners.analytic.addends import addends_of
from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.learners.persistence import beside
from mmcl_edge.packs import Pack, PackContents, read_pack
from mmcl_edge.packs.precision import write_reduced
from tests.builders import pack_contents
from tests.crossmodal import host, samples
from tests.space_packs import small_space, space_contents, written
from tests.unit.test_analytic_addends import DEVICES
from tests.unit.test_analytic_addends import written as written_sums

BASE, OTHER, OWN = DEVICES
FIGURES = {"retrieval_image": 0.5}


def alone(folder: Path, *modalities: str) -> Pack:
    return written(folder, space_contents(small_space(*modalities), evaluation=FIGURES))


def adapters() -> PackContents:
    return pack_contents(bundle_digest="0" * 64, evaluation={"accuracy": 0.75}, privacy={"noise": 1})


def both(contents: PackContents, *modalities: str) -> PackContents:
    return beside(contents, small_space(*modalities), **FIGURES)


def sums(folder: Path, *addends, space: tuple[str, ...] = ()) -> Pack:
    pack = read_pack(
        written_sums(
            folder,
            list(addends),
            labels=tuple(dict.fromkeys(n for a in addends for n in a.classes)),
            bundle_digest="0" * 64,
        )
    )
    if not space:
        return pack
    stored = small_space(*space)
    contents = pack_contents(
        tensors={**pack.tensors(), **stored.tensors_in_pack()},
        module={**pack.module, **stored.module()},
        config=pack.config.model_copy(update={"space": stored.config}),
        bundle_digest="0" * 64,
        labels=pack.manifest.label_names,
        experts=(),
        sample_counts=dict(pack.manifest.sample_counts),
    )
    return written(folder, contents)


def same_space(one: Pack, other: Pack) -> bool:
    a, b = space_of(one), space_of(other)
    return (
        (a.config, a.facts) == (b.config, b.facts)
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(value, b.tensors[name]) for name, value in a.tensors.items())
    )


def test_the_space_rides_on_a_release_of_classes(tmp_path: Path):
    release, own = written(tmp_path, adapters()), alone(tmp_path, "image")
    found = written(tmp_path, carried(release, own))
    assert same_space(found, own)
    assert found.config.learner == "mmcl"
    assert found.manifest.label_names == release.manifest.label_names
    assert found.manifest.experts == release.manifest.experts
    assert {name: value for name, value in found.tensors().items() if not name.startswith("space.")}.keys() == (
        release.tensors().keys()
    )
    assert {(one.digest, one.method) for one in found.manifest.parents} == {(p.digest, CARRY) for p in (release, own)}
    assert found.evaluation == {"accuracy": 0.75, **FIGURES}
    assert found.manifest.version == 1 + max(p.manifest.version for p in (release, own))


def test_classes_ride_on_a_release_of_a_space(tmp_path: Path):
    release, own = alone(tmp_path, "image"), written(tmp_path, adapters())
    found = written(tmp_path, carried(release, own))
    assert same_space(found, release)
    assert (found.config.learner, found.manifest.label_names) == ("mmcl", own.manifest.label_names)
    assert all(torch.equal(value, found.tensors()[name]) for name, value in own.tensors().items())
    assert found.manifest.sample_counts == own.manifest.sample_counts
    assert found.manifest.confidence == own.manifest.confidence


def test_of_a_device_that_has_both_what_the_release_has_takes_its_place(tmp_path: Path):
    own = written(tmp_path, both(adapters(), "image"))
    release = alone(tmp_path, "image", "speech")
    found = written(tmp_path, carried(release, own))
    assert same_space(found, release)
    assert found.manifest.label_names == own.manifest.label_names
    release = written(tmp_path, replace(adapters(), experiences=("others",)))
    found = written(tmp_path, carried(release, own))
    assert same_space(found, own)
    assert found.manifest.experiences == ("others",)


def test_sums_are_added_and_the_space_goes_along(tmp_path: Path):
    release, own = sums(tmp_path, BASE), sums(tmp_path, OWN, space=("image",))
    found = written(tmp_path, carried(release, own))
    assert {one.id for one in addends_of(found)} == {BASE.id, OWN.id}
    assert same_space(found, own)
    release = sums(tmp_path, BASE, space=("image", "speech"))
    found = written(tmp_path, carried(release, own))
    assert same_space(found, release)
    assert {one.id for one in addends_of(found)} == {BASE.id, OWN.id}


def test_modalities_that_the_release_lacks_are_merged_into_its_space(tmp_path: Path):
    release, own = alone(tmp_path, "image", "sound"), written(tmp_path, both(adapters(), "image", "speech"))
    found = written(tmp_path, carried(release, own))
    merged, released, mine = space_of(found), space_of(release), space_of(own)
    assert merged.facts.modalities == ("text", "image", "sound", "speech")
    assert merged.facts.pairs == {"image": 60, "sound": 60, "speech": 60}
    for origin, names in ((released, ("text", "image", "sound")), (mine, ("speech",))):
        for name in (one for one in origin.tensors if one.startswith(tuple(f"branches.{m}." for m in names))):
            assert torch.equal(merged.tensors[name], origin.tensors[name]), name
    for origin, modality in ((released, "sound"), (released, "image"), (mine, "speech"), (released, "text")):
        shown = samples("image" if modality == "text" else modality)
        one, other = (each.learner(host()).embed(shown, modality) for each in (merged, origin))
        assert float((1 - (one * other).sum(dim=1)).mean()) < 0.05, modality
    assert found.manifest.label_names == own.manifest.label_names
    assert not [name for name in found.evaluation if name.startswith("retrieval_")], "nobody has measured it"
    assert carried(found, own) is None, "now it lacks nothing"


def test_settings_of_learning_are_those_of_the_release(tmp_path: Path):
    release, stored = alone(tmp_path, "image", "sound"), small_space("image", "speech")
    for epochs in (1, 2, 5, 7):
        config = stored.config.model_copy(update={"epochs": epochs})
        found = carried(release, written(tmp_path, space_contents(replace(stored, config=config))))
        assert found is not None
        assert found.config.space == release.config.space


def test_spaces_with_other_mediators_or_settings_are_not_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    own = alone(tmp_path, "image", "speech")
    assert carried(alone(tmp_path, "sound"), own) is None
    assert "other mediators" in caplog.text
    stored = small_space("image")
    settings = stored.config.model_copy(update={"code_temperature": 0.5})
    other = written(tmp_path, space_contents(replace(stored, config=settings)))
    assert carried(other, own) is None
    assert "cannot be put into the released space" in caplog.messages[-1]


def test_a_release_that_has_all_is_taken_as_it_is(tmp_path: Path):
    own = alone(tmp_path, "image")
    assert carried(written(tmp_path, both(adapters(), "image", "speech")), own) is None
    assert carried(own, own) is None
    assert carried(own, None) is None


def test_reduced_parts_keep_their_form(tmp_path: Path):
    release = read_pack(tmp_path / write_reduced(written(tmp_path, adapters()), "fp16", tmp_path))
    own = read_pack(tmp_path / write_reduced(alone(tmp_path, "image"), "int8", tmp_path))
    found = written(tmp_path, carried(release, own))
    assert found.entries.keys() == release.entries.keys() | own.entries.keys()
    assert same_space(found, own)


def test_a_malformed_space_is_not_carried(tmp_path: Path):
    stored = small_space("image")
    tensors = {**stored.tensors_in_pack(), "space.more": torch.zeros(2)}
    own = written(tmp_path, space_contents(stored, tensors=tensors))
    with pytest.raises(PackError, match="malformed"):
        carried(written(tmp_path, adapters()), own)


def test_the_newest_release_that_a_part_needs_is_needed(tmp_path: Path):
    release = written(tmp_path, replace(adapters(), minimum_runtime="0.0.9", config=MethodConfig()))
    own = alone(tmp_path, "image")
    assert carried(release, own).minimum_runtime == own.manifest.minimum_runtime
