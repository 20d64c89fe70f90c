"""Devices that learned apart, merged: the head of one device that learned everything."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge import merge_packs
from mmcl_edge.learners.analytic.addends import addends_of, folded
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import Kind, method, request, write_task
from tests.bundles import tiny_bundle
from tests.unit.test_analytic_addends import DEVICES, LABELS, central, contribution, weights, written

TASKS: tuple[dict[str, Kind], ...] = ({"low": "pair", "high": "pair"}, {"middle": "pair"}, {"hum": "sound"})


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> list[Workspace]:
    """Three devices that learned one task each, and one that learned all three."""
    root = tmp_path_factory.mktemp("fleet")
    bundle = tiny_bundle(root / "bundle")
    found = []
    for number, tasks in enumerate([*([number] for number in range(3)), [0, 1, 2]]):
        workspace = Workspace(root / str(number)).create()
        workspace.install_bundle(bundle.path)
        for task in tasks:
            write_task(workspace, f"task {task}", TASKS[task], count=6, seed=task)
            asked = request(f"task {task}", method=method().model_copy(update={"learner": "analytic"}))
            assert adapt(workspace, asked).accepted
        found.append(workspace)
    return found


def pack_of(workspace: Workspace) -> Path:
    current = workspace.current_pack()
    assert current is not None
    return current


def answers(bundle: Path, pack: Path) -> dict[str, float]:
    """Probabilities of every class for one sample."""
    time_s = np.arange(8000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 700 * time_s)).astype(np.float32)
    with Runtime.open(bundle, pack, provider="cpu", threads=1) as runtime:
        return dict(runtime.predict(tone, np.full((32, 32, 3), 180, np.uint8)).probabilities)


def test_the_merge_answers_as_the_device_that_learned_everything(devices: list[Workspace], tmp_path: Path):
    report = merge_packs([pack_of(one) for one in devices[:3]], tmp_path)
    assert report.path is not None
    merged, whole = answers(devices[0].bundle_path, report.path), answers(devices[0].bundle_path, pack_of(devices[3]))
    assert merged == pytest.approx(whole, abs=1e-5)
    assert merged.keys() == {"low", "high", "middle", "hum"}
    manifest, everything = read_pack(report.path).manifest, read_pack(pack_of(devices[3])).manifest
    assert manifest.sample_counts == everything.sample_counts
    assert {parent.digest for parent in manifest.parents} == {pack_of(one).name for one in devices[:3]}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_gives_the_same_pack(devices: list[Workspace], tmp_path: Path, order: tuple[int, ...]):
    first = merge_packs([pack_of(one) for one in devices[:3]], tmp_path / "first")
    other = merge_packs([pack_of(devices[i]) for i in order], tmp_path / "other")
    assert first.digest == other.digest


def test_any_grouping_answers_alike(devices: list[Workspace], tmp_path: Path):
    one, two, three = (pack_of(device) for device in devices[:3])
    bundle = devices[0].bundle_path
    inner = merge_packs([one, two], tmp_path).path
    other = merge_packs([two, three], tmp_path).path
    assert inner is not None
    assert other is not None
    left, right = merge_packs([inner, three], tmp_path).path, merge_packs([other, one], tmp_path).path
    assert left is not None
    assert right is not None
    assert answers(bundle, left) == pytest.approx(answers(bundle, right), abs=1e-5)
    assert answers(bundle, left) == pytest.approx(answers(bundle, pack_of(devices[3])), abs=1e-5)


def test_what_packs_share_is_counted_once(devices: list[Workspace], tmp_path: Path):
    one, two, three = (pack_of(device) for device in devices[:3])
    inner = merge_packs([one, two], tmp_path).path
    assert inner is not None
    found = merge_packs([inner, one, three, two], tmp_path).path
    assert found is not None
    assert answers(devices[0].bundle_path, found) == pytest.approx(
        answers(devices[0].bundle_path, pack_of(devices[3])), abs=1e-5
    )


# Sums alone


def test_merged_weights_equal_training_on_all_data(tmp_path: Path):
    packs = [written(tmp_path, [one]) for one in DEVICES]
    path = merge_packs(packs, tmp_path / "out").path
    assert path is not None
    (merged,) = addends_of(read_pack(path))
    assert float((weights(merged) - central()).abs().max()) < 1e-5


def test_names_that_differ_in_case_are_one_class(tmp_path: Path):
    ant, other = DEVICES[0], DEVICES[1]
    shouted = type(ant)(ant.atoms, ("ANT", "bee"), ant.sums)
    packs = [written(tmp_path, [shouted], labels=("ANT", "bee")), written(tmp_path, [other], labels=LABELS)]
    report = merge_packs(packs, tmp_path / "out")
    assert report.path is not None
    assert [clash.kept.casefold() for clash in report.clashes] == ["ant"]
    (merged,) = addends_of(read_pack(report.path))
    assert {name.casefold() for name in merged.classes} == {"ant", "bee", "cow"}


def test_overlap_in_part_is_refused_and_nothing_written(tmp_path: Path):
    one, two, three = DEVICES
    packs = [written(tmp_path, [folded([one, two])]), written(tmp_path, [folded([two, three])])]
    with pytest.raises(MergeError, match="disjoint or hold one another"):
        merge_packs(packs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Labels exchanged


def fleet(folder: Path, *, liars: int, honest: int = 8) -> tuple[list[Path], set[str]]:
    """Devices that hold all classes; the first ``liars`` have exchanged their names."""
    packs, lying = [], set()
    for seed in range(liars + honest):
        one = contribution(100 + seed, LABELS, 3)
        if seed < liars:
            one = type(one)((), (*one.classes[1:], one.classes[0]), one.sums)
            one = type(one)((one.content_id(),), one.classes, one.sums)
        packs.append(written(folder, [one]))
        if seed < liars:
            lying.add(packs[-1].name)
    return packs, lying


def test_contributions_under_wrong_names_are_named(tmp_path: Path):
    packs, lying = fleet(tmp_path, liars=2)
    report = merge_packs(packs, tmp_path / "out")
    assert report.outliers is not None
    assert {one.digest for one in report.outliers} == lying
    assert ("bee", "ant") in report.outliers[0].exchanged


def test_robust_methods_leave_them_out(tmp_path: Path):
    packs, lying = fleet(tmp_path, liars=2)
    honest = merge_packs([one for one in packs if one.name not in lying], tmp_path / "honest").path
    for method_name in ("median", "krum"):
        robust = merge_packs(packs, tmp_path / method_name, method=method_name).path
        assert robust is not None
        assert honest is not None
        (found,), (wanted,) = addends_of(read_pack(robust)), addends_of(read_pack(honest))
        assert found.atoms == wanted.atoms
        assert float((weights(found) - weights(wanted)).abs().max()) == 0.0


def test_honest_contributions_are_no_outliers(tmp_path: Path):
    packs, _ = fleet(tmp_path, liars=0, honest=10)
    assert merge_packs(packs, tmp_path / "out").outliers == ()


def test_three_devices_have_no_middle(tmp_path: Path):
    packs, _ = fleet(tmp_path, liars=1, honest=2)
    assert merge_packs(packs, tmp_path / "out").outliers == ()
