"""Packs that claim contributions of others: nobody's samples are lost, and the claimant is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_edge.errors import InputError, MergeError, PackError
from mmcl_edge.fleet.carry import carried
from mmcl_edge.fleet.merge import merge_packs
from mmcl_edge.learners.analytic.addends import Addend, addends_of, folded
from mmcl_edge.packs import read_pack
from tests.unit.test_analytic_addends import DEVICES, contribution, weights, written

ONE, TWO, THREE = DEVICES


def claiming(atoms: list[Addend], sums: Addend) -> Addend:
    """An addend with the sums of one and the atoms of others beside."""
    return Addend(tuple(sorted({atom for one in (*atoms, sums) for atom in one.atoms})), sums.classes, sums.sums)


def names(pack: Path) -> set[str]:
    return {atom for one in addends_of(read_pack(pack)) for atom in one.atoms}


def test_a_contribution_under_the_id_of_another_is_refused(tmp_path: Path):
    pack = read_pack(written(tmp_path, [Addend(ONE.atoms, TWO.classes, TWO.sums)]))
    with pytest.raises(PackError, match="not those of the contribution"):
        addends_of(pack)


@pytest.mark.parametrize("sums", [ONE, TWO, contribution(77, ("ant", "eel"), 3)], ids=["one's", "two's", "its own"])
def test_a_pack_that_claims_others_contributions_ends_the_merge_and_is_named(tmp_path: Path, sums: Addend):
    forged = written(tmp_path, [claiming([ONE, TWO], sums)])
    packs = [written(tmp_path, [ONE]), written(tmp_path, [TWO]), forged]
    with pytest.raises(MergeError, match=forged.name[:16]):
        merge_packs(packs, tmp_path / "out")


@pytest.mark.parametrize("method", ["median", "krum"])
def test_robust_methods_leave_the_claimant_out_and_keep_everybody_elses_samples(tmp_path: Path, method: str):
    forged = written(tmp_path, [claiming([ONE, TWO], contribution(77, ("ant", "eel"), 3))])
    packs = [written(tmp_path, [ONE]), written(tmp_path, [TWO]), written(tmp_path, [THREE]), forged]
    report = merge_packs(packs, tmp_path / "out", method=method)
    assert report.path is not None
    assert names(report.path) == {one.id for one in DEVICES}
    (merged,) = addends_of(read_pack(report.path))
    assert float((weights(merged) - weights(folded(DEVICES))).abs().max()) < 1e-5
    assert any(forged.name[:16] in note for note in report.notes)


def test_claims_that_overlap_name_the_pack(tmp_path: Path):
    packs = [written(tmp_path, [folded([ONE, TWO])]), written(tmp_path, [folded([TWO, THREE])])]
    with pytest.raises(MergeError) as refused:
        merge_packs(packs, tmp_path / "out")
    assert any(pack.name[:16] in str(refused.value) for pack in packs)


def test_a_release_in_other_bytes_does_not_replace_the_one_that_devices_have(tmp_path: Path):
    release = folded([ONE, TWO])
    own = [contribution(seed, ("dog",), 2) for seed in (20, 21, 22)]
    honest = [written(tmp_path, [release, one]) for one in own]
    liar = contribution(99, ("ant", "bee", "cow"), 2)
    forged = written(tmp_path, [Addend(release.atoms, liar.classes, liar.sums), contribution(23, ("dog",), 2)])
    found = merge_packs([forged, *honest], tmp_path / "out").path
    assert found is not None
    (merged,) = addends_of(read_pack(found))
    assert merged.sample_counts()["bee"] == release.sample_counts()["bee"]


def test_a_release_that_claims_what_a_device_learned_does_not_take_its_place(tmp_path: Path):
    release = read_pack(written(tmp_path, [claiming([THREE], folded([ONE, TWO]))]))
    current = read_pack(written(tmp_path, [THREE]))
    with pytest.raises(InputError, match="do not hold"):
        carried(release, current)


def test_honest_releases_hold_what_they_claim(tmp_path: Path):
    packs = [written(tmp_path, [folded(DEVICES)]), *(written(tmp_path, [one]) for one in DEVICES)]
    found = merge_packs(packs, tmp_path / "out").path
    assert found is not None
    assert names(found) == {one.id for one in DEVICES}
    assert carried(read_pack(packs[0]), read_pack(packs[1])) is None
