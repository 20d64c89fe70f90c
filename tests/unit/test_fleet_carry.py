"""A release and what the device learned since: both in one pack, nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_edge.errors import InputError
from mmcl_edge.fleet.carry import carried
from mmcl_edge.learners.analytic.addends import Addend, addends_of, folded
from mmcl_edge.packs import Pack, read_pack, write_pack
from tests.builders import pack_contents
from tests.unit.test_analytic_addends import DEVICES, contribution, written

BASE, OTHER, OWN = DEVICES


def pack(folder: Path, addends: list[Addend], labels: tuple[str, ...]) -> Pack:
    return read_pack(written(folder, addends, labels=labels))


def test_own_contributions_stand_beside_the_release(tmp_path: Path):
    release = pack(tmp_path, [folded([BASE, OTHER])], ("ant", "bee", "cow"))
    current = pack(tmp_path, [BASE, OWN], ("ant", "bee", "eel", "dog"))
    contents = carried(release, current)
    assert contents is not None
    found = read_pack(tmp_path / write_pack(tmp_path, contents))
    assert found.manifest.label_names == ("ant", "bee", "cow", "eel", "dog")
    assert {one.id for one in addends_of(found)} == {folded([BASE, OTHER]).id, OWN.id}
    assert {parent.digest for parent in found.manifest.parents} == {release.digest, current.digest}
    assert found.manifest.sample_counts == {"dog": 4, "eel": 4}
    assert found.manifest.version == 2


def test_a_release_that_holds_everything_is_taken_as_it_is(tmp_path: Path):
    release = pack(tmp_path, [folded(DEVICES)], ("ant", "bee", "cow", "dog", "eel"))
    assert carried(release, pack(tmp_path, [BASE, OWN], ("ant", "bee", "dog", "eel"))) is None
    assert carried(release, None) is None


def test_adapters_are_not_carried(tmp_path: Path):
    release = pack(tmp_path, [BASE], ("ant", "bee"))
    assert carried(release, read_pack(tmp_path / write_pack(tmp_path, pack_contents()))) is None


def test_sums_that_cannot_be_parted_are_refused(tmp_path: Path):
    release = pack(tmp_path, [folded([BASE, OTHER])], ("ant", "bee", "cow"))
    with pytest.raises(InputError, match="disjoint"):
        carried(release, pack(tmp_path, [folded([OTHER, contribution(8, ("dog",))])], ("bee", "cow", "dog")))
